#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "machine.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

#ifndef FL_EMULATOR_USES_UCONTEXT
asm(R"(
.text
.globl fl_emulator_switch
.hidden fl_emulator_switch
.type fl_emulator_switch, @function
fl_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fl_emulator_switch, .-fl_emulator_switch
)");
#endif

namespace fl_emulator {

Machine m;

namespace {

thread_local volatile char anchor;
constexpr int kPoison = 0xff;  // NaN, or -1: shared memory holds nothing at the start

// In the order of Wait.
const char* kNames[] = {"nothing",
                        "__syncthreads",
                        "__syncthreads_or",
                        "__syncthreads_and",
                        "__syncthreads_count",
                        "grid_sync",
                        "__shfl_sync",
                        "__ballot_sync",
                        "__match_any_sync",
                        "__reduce_add_sync",
                        "__reduce_min_sync",
                        "__reduce_max_sync",
                        "__reduce_or_sync",
                        "__reduce_and_sync",
                        "__syncwarp",
                        "the end"};

void enter(Block& b) {
  if (m.at == &b) return;
  if (m.at) m.at->shared.assign(m.segment.begin, m.segment.begin + m.segment.bytes);
  if (b.shared.empty())
    memset(m.segment.begin, kPoison, m.segment.bytes);
  else
    memcpy(m.segment.begin, b.shared.data(), m.segment.bytes);
  m.at = &b;
  blockIdx = b.index;
}

Fiber* take(int index) {
  Warp& w = m.at->warps[index];
  const int lane = m.draw_bit(w.ready);
  w.ready &= ~(1u << lane);
  if (!w.ready) m.at->ready &= ~(1u << index);
  return w.lanes[lane];
}

// The next fiber that can run; null if none can. Mostly one warp runs as far as it gets: that is when it overtakes
// those that a missing barrier lets it overtake. At other times warps take turns.
Fiber* pick() {
  if (!m.at->ready) {
    const size_t n = m.blocks.size(), first = m.draw(n);
    size_t i = 0;
    while (i < n && !m.blocks[(first + i) % n].ready) ++i;
    if (i == n) return nullptr;
    enter(m.blocks[(first + i) % n]);
  }
  uint32_t& ready = m.at->ready;
  if (m.favourite < 0 || !(ready >> m.favourite & 1)) {
    const int w = m.draw_bit(ready);
    m.favourite = m.draw(8) ? w : -1;
    return take(w);
  }
  return take(m.favourite);
}

void change(Fiber* to) {
  Fiber* from = m.self;
  if (to == from) return;
  m.self = to;
  if (to) threadIdx = to->thread;
  Stack::change(from->stack, to ? to->stack : m.own, from->wait == kDone);
}

void finish() {
  Fiber& f = *m.self;
  Block& b = *f.block;
  f.wait = kDone;
  if (--b.live && b.waiting == b.live) release_block(b);
  if (--m.grid_live && m.grid_waiting == m.grid_live) release_grid();
  change(pick());
}

void entry() {
  Stack::entered(m.from_own ? &m.own : nullptr);
  m.from_own = false;
  m.launch->body(m.launch->context);
  finish();
}

void begin(Block& b, unsigned index, size_t first_fiber) {
  const dim3 g = m.launch->grid, t = m.launch->block;
  b.index = {index % g.x, index / g.x % g.y, index / g.x / g.y};
  b.live = t.x * t.y * t.z;
  b.waiting = 0;
  b.fibers.clear(), b.shared.clear();
  b.ready = 0;
  b.warps.assign((b.live + 31) / 32, Warp{});
  for (unsigned i = 0; i < b.live; ++i) {
    if (first_fiber + i == m.fibers.size()) m.fibers.emplace_back();
    Fiber& f = m.fibers[first_fiber + i];
    f.stack.begin(&entry);
    f.block = &b, f.warp = &b.warps[i / 32], f.lane = i % 32, f.wait = kRuns;
    f.warp->lanes[f.lane] = &f;
    f.thread = {i % t.x, i / t.x % t.y, i / t.x / t.y};
    b.fibers.push_back(&f);
    make_ready(f);
  }
  b.dynamic = static_cast<unsigned char*>(malloc(m.launch->shared_bytes));
  if (b.dynamic) memset(b.dynamic, kPoison, m.launch->shared_bytes);
  m.grid_live += b.live;
}

void report_stuck() {
  std::map<std::string, std::pair<int, const Fiber*>> places;
  for (Block& b : m.blocks)
    for (Fiber* f : b.fibers) {
      auto& at = places[place(*f)];
      ++at.first;
      if (!at.second) at.second = f;
    }
  std::string sentence = "the kernel is stuck:";
  for (const auto& [at, who] : places)
    sentence += " " + std::to_string(who.first) + " threads in " + at + " (such as " + name(*who.second) + ")";
  fprintf(stderr, "fastloss emulator: %s.\n", sentence.c_str());
  m.failed = true;
}

// Runs the blocks that have begun, to the end.
void drain() {
  m.from_own = true;
  m.at = nullptr;
  enter(m.blocks[m.draw(m.blocks.size())]);
  m.self = pick();
  threadIdx = m.self->thread;
  Stack::change(m.own, m.self->stack, false);
  if (!m.failed && m.grid_live) report_stuck();
  for (Block& b : m.blocks) free(b.dynamic);
  if (m.failed)
    for (Fiber& f : m.fibers) f.stack.abandon();
}

}  // namespace

Segment Segment::find() {
  anchor = 1;
  Segment s;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        const auto* begin = static_cast<unsigned char*>(info->dlpi_tls_data);
        const auto* ours = const_cast<const unsigned char*>(reinterpret_cast<volatile unsigned char*>(&anchor));
        for (int i = 0; begin && i < info->dlpi_phnum; ++i) {
          const auto& part = info->dlpi_phdr[i];
          if (part.p_type == PT_TLS && ours >= begin && ours < begin + part.p_memsz)
            *static_cast<Segment*>(out) = {const_cast<unsigned char*>(begin), part.p_memsz};
        }
        return 0;
      },
      &s);
  return s;
}

std::string place(const Fiber& f) {
  const std::string at = f.wait == kDone ? "" : std::string(" at ") + f.file + ":" + std::to_string(f.line);
  return kNames[f.wait] + at;
}

std::string name(const Fiber& f) {
  const auto three = [](uint3 v) {
    return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
  };
  return "thread " + three(f.thread) + " of block " + three(f.block->index);
}

void make_ready(Fiber& f) {
  f.warp->ready |= 1u << f.lane;
  f.block->ready |= 1u << (f.warp - f.block->warps.data());
}

void wait() {
  change(pick());
  m.self->wait = kRuns;
}

void fail(const std::string& sentence) {
  fprintf(stderr, "fastloss emulator: %s.\n", sentence.c_str());
  m.failed = true;
  change(nullptr);
}

// File names by content: an instrumented build has one copy of them for each source.
bool same_place(const Fiber& a, const Fiber& b) {
  return a.wait == b.wait && a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

int lane() { return m.self->lane; }
unsigned char* dynamic_shared() { return m.self->block->dynamic; }

bool run(const Launch& launch) {
  std::lock_guard<std::mutex> lock(m.mutex);
  if (!m.random) {
    const char* seed = getenv("FASTLOSS_EMULATOR_SEED");
    m.random = 0x9e3779b97f4a7c15u * (seed ? strtoull(seed, nullptr, 10) * 2 + 1 : 1);
  }
  m.launch = &launch, m.failed = false, m.grid_waiting = 0, m.grid_live = 0;
  m.segment = Segment::find();
  const std::vector<unsigned char> host(m.segment.begin, m.segment.begin + m.segment.bytes);
  blockDim = launch.block, gridDim = launch.grid;
  const unsigned n = launch.grid.x * launch.grid.y * launch.grid.z;
  const unsigned threads = launch.block.x * launch.block.y * launch.block.z;
  if (launch.cooperative) {
    m.blocks.resize(n);
    for (unsigned i = 0; i < n; ++i) begin(m.blocks[i], i, size_t(i) * threads);
    drain();
  } else {
    std::vector<unsigned> order(n);
    for (unsigned i = 0; i < n; ++i) order[i] = i, std::swap(order[i], order[m.draw(i + 1)]);
    m.blocks.resize(1);
    for (unsigned i = 0; i < n && !m.failed; ++i) begin(m.blocks[0], order[i], 0), drain();
  }
  memcpy(m.segment.begin, host.data(), host.size());
  return !m.failed;
}

}  // namespace fl_emulator
