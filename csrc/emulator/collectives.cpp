#include "machine.h"

namespace fl_emulator {
namespace {

void arrive(Fiber& f, Wait wait, const char* file, int line) { f.wait = wait, f.file = file, f.line = line; }

void disagree(const Fiber& a, const Fiber& b) {
  fail(name(a) + " waits in " + place(a) + ", but " + name(b) + " in " + place(b) + ", for the same barrier");
}

void release_warp(Warp& w, uint32_t mask) {
  Fiber& first = *w.lanes[__builtin_ctz(mask)];
  uint64_t combined = first.wait == kAnd || first.wait == kMin ? ~uint64_t(0) : 0;
  const auto each = [&](auto&& body) {
    for (uint32_t left = mask; left; left &= left - 1) body(*w.lanes[__builtin_ctz(left)]);
  };
  bool good = true;
  each([&](Fiber& f) {
    if (good && (!same_place(first, f) || f.mask != mask)) good = false, disagree(first, f);
    const uint64_t v = f.value;
    switch (first.wait) {
      case kBallot:
        combined |= uint64_t(v != 0) << f.lane;
        break;
      case kAdd:
        combined += v;
        break;
      case kMin:
        combined = v < combined ? v : combined;
        break;
      case kMax:
        combined = v > combined ? v : combined;
        break;
      case kOr:
        combined |= v;
        break;
      case kAnd:
        combined &= v;
        break;
      default:
        break;
    }
  });
  each([&](Fiber& f) {
    f.result = combined;
    if (f.wait == kShuffle) {
      if (!(mask >> f.source & 1))
        fail(name(f) + " reads lane " + std::to_string(f.source) + " in " + place(f) + ", which is not in its mask");
      f.result = w.lanes[f.source]->value;
    }
    if (f.wait == kMatch) each([&](Fiber& g) { f.result |= uint64_t(g.value == f.value) << g.lane; });
  });
  each([&](Fiber& f) { make_ready(f); });
  w.waiting &= ~mask;
}

}  // namespace

void release_block(Block& b) {
  const Fiber* first = nullptr;
  int any = 0, all = 1, count = 0;
  for (Fiber* f : b.fibers) {
    if (f->wait < kSync || f->wait > kSyncCount) continue;
    if (!first) first = f;
    if (!same_place(*first, *f)) return disagree(*first, *f);
    any |= f->predicate != 0, all &= f->predicate != 0, count += f->predicate != 0;
  }
  const int result = first->wait == kSyncOr ? any : first->wait == kSyncAnd ? all : count;
  for (Fiber* f : b.fibers)
    if (same_place(*first, *f)) f->result = result, make_ready(*f);
  b.waiting = 0;
  m.favourite = -1;
}

void release_grid() {
  const Fiber* first = nullptr;
  for (Block& b : m.blocks)
    for (Fiber* f : b.fibers) {
      if (f->wait == kDone) continue;
      if (!first) first = f;
      if (!same_place(*first, *f)) return disagree(*first, *f);
      make_ready(*f);
    }
  m.grid_waiting = 0;
}

int sync_block(Wait wait_in, int predicate, const char* file, int line) {
  Fiber& f = *m.self;
  Block& b = *f.block;
  arrive(f, wait_in, file, line);
  f.predicate = predicate;
  if (++b.waiting == b.live) release_block(b);
  wait();
  return static_cast<int>(f.result);
}

void sync_grid(const char* file, int line) {
  arrive(*m.self, kGrid, file, line);
  if (!m.launch->cooperative) fail(name(*m.self) + " waits in " + place(*m.self) + ", outside of a cooperative launch");
  if (++m.grid_waiting == m.grid_live) release_grid();
  wait();
}

uint64_t sync_warp(Wait wait_in, uint32_t mask, uint64_t value, int source, const char* file, int line) {
  Fiber& f = *m.self;
  arrive(f, wait_in, file, line);
  if (!(mask >> f.lane & 1)) fail(name(f) + " waits in " + place(f) + " with a mask that lacks its own lane");
  f.mask = mask, f.value = value, f.source = source;
  f.warp->waiting |= 1u << f.lane;
  if ((f.warp->waiting & mask) == mask) release_warp(*f.warp, mask);
  wait();
  return f.result;
}

}  // namespace fl_emulator
