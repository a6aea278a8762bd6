// A stack of its own and a way to change to it. AddressSanitizer is told of each change.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#if !defined(__x86_64__) || defined(FL_EMULATOR_UCONTEXT)
#define FL_EMULATOR_USES_UCONTEXT
#include <ucontext.h>
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace fl_emulator {

#ifndef FL_EMULATOR_USES_UCONTEXT
// swapcontext saves the signal mask with a system call each time; this saves what the ABI wants kept.
extern "C" __attribute__((visibility("hidden"))) void fl_emulator_switch(void** save, void* load);
#endif

class Stack {
 public:
#ifdef __SANITIZE_ADDRESS__
  static constexpr size_t kBytes = 512 << 10;
#else
  static constexpr size_t kBytes = 128 << 10;
#endif
  // Not one that may be copied: its address is in use.
  Stack() = default;
  Stack(const Stack&) = delete;

  // Prepares a call of `entry`, which never returns.
  void begin(void (*entry)()) {
    if (!memory_) {  // the lowest page is a guard
      void* p = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (p == MAP_FAILED) throw std::bad_alloc();
      memory_ = static_cast<char*>(p);
      mprotect(memory_, page(), PROT_NONE);
    }
#ifdef FL_EMULATOR_USES_UCONTEXT
    getcontext(&at_);
    at_.uc_stack.ss_sp = memory_ + page(), at_.uc_stack.ss_size = kBytes - page(), at_.uc_link = nullptr;
    makecontext(&at_, entry, 0);
#else
    void** top = reinterpret_cast<void**>(memory_ + kBytes) - 1;  // the entry finds the alignment of a call
    *top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    at_ = top;
#endif
    fake_ = nullptr;
  }

  // Forgets the frames of a call that will not go on.
  void abandon() {
#ifdef __SANITIZE_ADDRESS__
    if (memory_) __asan_unpoison_memory_region(memory_ + page(), kBytes - page());
#endif
  }

  // From the stack that runs, `from`, to `to`. A stack without memory is the OS thread's own.
  static void change(Stack& from, Stack& to, bool from_is_done) {
#ifdef __SANITIZE_ADDRESS__
    const bool own = to.memory_ == nullptr;
    __sanitizer_start_switch_fiber(from_is_done ? nullptr : &from.fake_, own ? to.own_bottom_ : to.memory_ + page(),
                                   own ? to.own_size_ : kBytes - page());
#else
    (void)from_is_done;
#endif
#ifdef FL_EMULATOR_USES_UCONTEXT
    swapcontext(&from.at_, &to.at_);
#else
    fl_emulator_switch(&from.at_, to.at_);
#endif
    arrived(from);
  }

  // To be called first on a new stack; `was` is the OS thread's stack if that is where it came from, which is how its
  // bounds become known.
  static void entered(Stack* was) {
#ifdef __SANITIZE_ADDRESS__
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (was) was->own_bottom_ = bottom, was->own_size_ = size;
#else
    (void)was;
#endif
  }

 private:
  static size_t page() {
    static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return bytes;
  }
  static void arrived(Stack& here) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(here.fake_, nullptr, nullptr);
#else
    (void)here;
#endif
  }

  char* memory_ = nullptr;
  void* fake_ = nullptr;
#ifdef __SANITIZE_ADDRESS__
  const void* own_bottom_ = nullptr;
  size_t own_size_ = 0;
#endif
#ifdef FL_EMULATOR_USES_UCONTEXT
  ucontext_t at_;
#else
  void* at_ = nullptr;
#endif
};

}  // namespace fl_emulator
