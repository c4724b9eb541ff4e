// What an instruction set's build of the kernels hands to the launcher.
#pragma once
#include <stddef.h>

struct Kernel {
  const char* name;  // the body as its KERNEL line spells it
  size_t size;       // of the body, in bytes: its arguments
  void (*run)(const void* body, int x, int y);
};

struct Kernels {
  const char* instruction_set;
  const Kernel* table;
  int count;
};
