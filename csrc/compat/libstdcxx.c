// For wheels (setup_glibc.py): what g++ 9 and later take from libstdc++ and older systems do not have, by what they do.
// In C, and hidden: libtorch exports copies of some of these names, which no later one has to.
#define OLD(name) __asm__(name)
#define NEW(name) __asm__(name) __attribute__((visibility("hidden"), used))

// Of glibc 2.32, read by reference counts; zero says that there may be several threads.
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;

// Default constructors (GCC 9) by the ones with a mode: in = 8, out = 16.
void stringstream_of_mode(void* self, int mode)
    OLD("_ZNSt7__cxx1118basic_stringstreamIcSt11char_traitsIcESaIcEEC1ESt13_Ios_Openmode");
void ostringstream_of_mode(void* self, int mode)
    OLD("_ZNSt7__cxx1119basic_ostringstreamIcSt11char_traitsIcESaIcEEC1ESt13_Ios_Openmode");
void stringstream(void* self) NEW("_ZNSt7__cxx1118basic_stringstreamIcSt11char_traitsIcESaIcEEC1Ev");
void ostringstream(void* self) NEW("_ZNSt7__cxx1119basic_ostringstreamIcSt11char_traitsIcESaIcEEC1Ev");
void stringstream(void* self) { stringstream_of_mode(self, 8 | 16); }
void ostringstream(void* self) { ostringstream_of_mode(self, 16); }

// std::exception_ptr's count (inline since GCC 11): a copy that is never destroyed adds one, its destructor takes one.
void exception_ptr_copy(void* self, const void* other) OLD("_ZNSt15__exception_ptr13exception_ptrC1ERKS0_");
void exception_ptr_destroy(void* self) OLD("_ZNSt15__exception_ptr13exception_ptrD1Ev");
void exception_ptr_addref(void* self) NEW("_ZNSt15__exception_ptr13exception_ptr9_M_addrefEv");
void exception_ptr_release(void* self) NEW("_ZNSt15__exception_ptr13exception_ptr10_M_releaseEv");
void exception_ptr_addref(void* self) {
  void* copy;
  exception_ptr_copy(&copy, self);
}
void exception_ptr_release(void* self) { exception_ptr_destroy(self); }

void throw_bad_array_new_length_of_abi(void) OLD("__cxa_throw_bad_array_new_length");
void throw_bad_array_new_length(void) NEW("_ZSt28__throw_bad_array_new_lengthv");
void throw_bad_array_new_length(void) { throw_bad_array_new_length_of_abi(); }
