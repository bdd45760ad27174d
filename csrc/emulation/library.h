// What a library of kernels offers: its launchers by name.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "runtime.h"

namespace np::emulation {

struct Parameter {
  const char* type;  // NumPy's name of the element or scalar type; "any" for void*
  bool array;
  bool writable;
};

struct Argument {
  void* array;
  std::int64_t integer;
  double number;
};

struct Launcher {
  std::vector<Parameter> parameters;
  std::function<void(const std::vector<Argument>&)> call;
};

struct Library {
  std::map<std::string, Launcher> launchers;
  Options* options;
};

// The library that the caller is part of; from outside, the function is found by its name.
extern "C" Library* np_emulation_library();
constexpr const char* kLibrarySymbol = "np_emulation_library";

}  // namespace np::emulation
