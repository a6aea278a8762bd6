// The tasks of a pass on several threads. OpenMP, which torch's parallel_for uses, cuts the tasks into equal shares and
// ends in a barrier at which threads wait for each other in a loop: on a busy machine all go at the pace of the one
// that is not scheduled. Here a task goes to whoever comes next, a helper that comes late is not waited for, and nobody
// spins.
#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "problem.h"

namespace fl_cpu {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kWorthWaking = std::chrono::microseconds(40);  // less work than that is done before a helper is awake

class Pool {
  std::mutex calls_;  // one call at a time has the helpers; another does its work alone
  std::mutex mutex_;  // of all that follows
  std::condition_variable wake_, left_;
  int helpers_ = 0, wanted_ = 0, active_ = 0;
  ParallelBody body_ = nullptr;
  void* context_ = nullptr;
  std::atomic<int64_t> next_{0};
  int64_t end_ = 0, grain_ = 1;
  std::exception_ptr error_;
  int alone_ = 0, patience_ = 0;  // calls still to be done without helpers, and how many the last wait cost

  void work() {
    try {
      for (int64_t t; (t = next_.fetch_add(grain_)) < end_;) body_(context_, t, t + grain_ < end_ ? t + grain_ : end_);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      error_ = std::current_exception();
      next_ = end_;
    }
  }

  void help() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return wanted_ > 0; });
      --wanted_, ++active_;
      lock.unlock();
      work();
      lock.lock();
      if (--active_ == 0) left_.notify_one();
    }
  }

  void publish(int64_t begin, int64_t end, int helpers, void* context, ParallelBody body) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (; helpers_ < helpers; ++helpers_) std::thread(&Pool::help, this).detach();
    body_ = body, context_ = context, next_ = begin, end_ = end, error_ = nullptr;
    grain_ = (end - begin) / (16 * (helpers + 1)) + 1;
    wanted_ = helpers;
  }

 public:
  void run(int threads, int64_t begin, int64_t end, void* context, ParallelBody body) {
    const std::unique_lock<std::mutex> call(calls_, std::try_to_lock);
    if (threads <= 1 || !call || alone_ > 0) {
      if (call && alone_ > 0) --alone_;
      return body(context, begin, end);
    }
    const auto start = Clock::now();
    body(context, begin, begin + 1);
    if ((Clock::now() - start) * (end - begin - 1) < kWorthWaking) return body(context, begin + 1, end);
    const int64_t rest = end - begin - 1;
    publish(begin + 1, end, static_cast<int>(rest < threads ? rest : threads) - 1, context, body);
    wake_.notify_all();
    work();
    const auto done = Clock::now();
    std::unique_lock<std::mutex> lock(mutex_);
    wanted_ = 0;
    left_.wait(lock, [this] { return active_ == 0; });
    const auto waited = Clock::now() - done;
    // A helper was put aside in the middle of a task: other work has the processors. Try again after some calls.
    const bool slow = waited > kWorthWaking && waited * 4 > done - start;
    patience_ = slow ? (patience_ < 32 ? 2 * patience_ + 1 : 64) : patience_ / 2;
    alone_ = slow ? patience_ : 0;
    if (error_) std::rethrow_exception(error_);
  }
};

Pool* pool = new Pool;  // never destroyed: its threads sleep in it to the end of the process

}  // namespace

void run_parallel(int threads, int64_t begin, int64_t end, void* context, ParallelBody body) {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });  // a child has no helpers
  (void)registered;
  pool->run(threads, begin, end, context, body);
}

}  // namespace fl_cpu
