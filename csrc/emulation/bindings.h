// Launchers by name, callable with arguments that are known at run time only: from Python
// (module.cpp) and from a command line (driver.cpp).
//
// One line in a source file binds a launcher:
//     NP_BIND("tile_sum", toy::tile_sum);
// Pointers to element types become arrays (const ones are only read), numbers and enumerations
// become scalars, and a stream is filled in. A launcher that takes a struct is bound through a
// lambda without captures: NP_BIND("name", +[](float* out, int rows) { ... }).

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <driver_types.h>

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "library.h"

namespace np::emulation {

template <typename T>
constexpr const char* type_name() {
  if constexpr (std::is_void_v<T>) {
    return "any";
  } else if constexpr (std::is_same_v<T, float>) {
    return "float32";
  } else if constexpr (std::is_same_v<T, double>) {
    return "float64";
  } else if constexpr (std::is_same_v<T, __half>) {
    return "float16";
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return "bfloat16";
  } else if constexpr (std::is_same_v<T, bool>) {
    return "bool";
  } else if constexpr (std::is_enum_v<T>) {
    return type_name<std::underlying_type_t<T>>();
  } else {
    static_assert(std::is_integral_v<T>, "bind this launcher through a lambda");
    constexpr const char* kNames[2][4] = {
        {"uint8", "uint16", "uint32", "uint64"}, {"int8", "int16", "int32", "int64"}};
    return kNames[std::is_signed_v<T>][sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) / 4 + 1];
  }
}

template <typename T>
constexpr bool kIsStream = std::is_same_v<T, cudaStream_t>;

template <typename T>
void describe(std::vector<Parameter>& parameters) {
  if constexpr (!kIsStream<T>) {
    using Element = std::remove_pointer_t<T>;
    parameters.push_back(
        {type_name<std::remove_cv_t<Element>>(), std::is_pointer_v<T>, !std::is_const_v<Element>});
  }
}

// The next argument of this type.
template <typename T>
T take(const std::vector<Argument>& arguments, std::size_t& next) {
  if constexpr (kIsStream<T>) {
    return nullptr;
  } else if constexpr (std::is_pointer_v<T>) {
    return static_cast<T>(arguments[next++].array);
  } else if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(arguments[next++].number);
  } else {
    return static_cast<T>(arguments[next++].integer);
  }
}

template <typename Result, typename... Parameters>
bool bind(const char* name, Result (*function)(Parameters...)) {
  Launcher& launcher = np_emulation_library()->launchers[name];
  (describe<Parameters>(launcher.parameters), ...);
  launcher.call = [function](const std::vector<Argument>& arguments) {
    std::size_t next = 0;
    // Braces evaluate their elements from left to right.
    std::tuple<Parameters...> values{take<Parameters>(arguments, next)...};
    std::apply(function, values);
  };
  return true;
}

}  // namespace np::emulation

#define NP_BIND_JOIN(a, b) a##b
#define NP_BIND_NAME(counter) NP_BIND_JOIN(np_bound_, counter)
#define NP_BIND(name, ...)                                       \
  [[maybe_unused]] static const bool NP_BIND_NAME(__COUNTER__) = \
      np::emulation::bind(name, __VA_ARGS__)
