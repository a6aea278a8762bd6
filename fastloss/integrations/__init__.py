"""What moves a `fastloss.LossSchedule` inside the trainers of others. `import fastloss` imports nothing of this."""
