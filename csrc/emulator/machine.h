// The state of a launch, shared by what runs fibers (scheduler.cpp) and what they wait in (collectives.cpp).
#pragma once
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "fiber.h"
#include "scheduler.h"

namespace fl_emulator {

struct Block;
struct Warp;

struct Fiber {
  Stack stack;
  Block* block;
  Warp* warp;
  uint3 thread;
  int lane;
  Wait wait;
  uint32_t mask;
  int source, predicate, line;
  const char* file;
  uint64_t value, result;
};

struct Warp {
  Fiber* lanes[32];
  uint32_t waiting, ready;  // lanes in a collective, lanes that can run
};

struct Block {
  uint3 index;
  std::vector<Fiber*> fibers;
  std::vector<Warp> warps;
  uint32_t ready;  // warps with lanes that can run
  unsigned live, waiting;
  unsigned char* dynamic;
  std::vector<unsigned char> shared;  // what the shared variables hold while another block runs
};

// The thread-local segment of this library on the current thread: what `__shared__` declares.
struct Segment {
  unsigned char* begin = nullptr;
  size_t bytes = 0;

  static Segment find();
};

struct Machine {
  std::mutex mutex;
  const Launch* launch;
  Segment segment;
  Stack own;
  bool from_own;
  Fiber* self;
  Block* at;  // whose shared variables are in place
  std::deque<Fiber> fibers;
  std::vector<Block> blocks;
  unsigned grid_live, grid_waiting;
  bool failed;
  int favourite;  // the warp that runs on while it can; negative: none does
  uint64_t random = 0;

  unsigned draw(size_t n) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    return static_cast<unsigned>(((random >> 32) * n) >> 32);
  }
  int draw_bit(uint32_t set) {
    const unsigned by = draw(32);
    return static_cast<int>((__builtin_ctz(by ? set >> by | set << (32 - by) : set) + by) % 32);
  }
};
extern Machine m;

std::string place(const Fiber& f);  // where it waits
std::string name(const Fiber& f);   // who it is
bool same_place(const Fiber& a, const Fiber& b);

void make_ready(Fiber& f);
// Lets another fiber run until this one is made ready and drawn.
void wait();
// Ends the launch, saying why. Does not return.
void fail(const std::string& sentence);

// Lets all go on that wait for the same: the block is complete, the grid is, or the lanes of the mask are.
void release_block(Block& b);
void release_grid();

}  // namespace fl_emulator
