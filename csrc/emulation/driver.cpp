// A program that runs one kernel, so that sanitizers watch nothing but the kernel:
//     driver NAME THREADS BLOCKS SEED ARGUMENT...
// The orders of threads and blocks are 0 (ascending), 1 (descending) or 2 (shuffled). An argument
// is "null", a number, or the name of a file that holds an array; arrays that the kernel can write
// are written back. Each array has its own allocation of exactly its size.

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>

#include "library.h"

using namespace np::emulation;

namespace {

constexpr int kKernelError = 3;

struct Array {
  std::string path;
  std::size_t bytes;
  std::unique_ptr<char, decltype(&std::free)> data{nullptr, &std::free};
};

Array read(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw std::runtime_error("cannot read " + path);
  Array array{path, static_cast<std::size_t>(file.tellg())};
  void* data = nullptr;
  if (posix_memalign(&data, 64, array.bytes)) throw std::bad_alloc();
  array.data.reset(static_cast<char*>(data));
  file.seekg(0).read(array.data.get(), static_cast<std::streamsize>(array.bytes));
  return array;
}

void write(const Array& array) {
  std::ofstream file(array.path, std::ios::binary);
  file.write(array.data.get(), static_cast<std::streamsize>(array.bytes));
  if (!file) throw std::runtime_error("cannot write " + array.path);
}

void run(const std::vector<std::string>& words) {
  const Launcher& launcher = np_emulation_library()->launchers.at(words.at(0));
  options() = {
      static_cast<Order>(std::stoi(words.at(1))), static_cast<Order>(std::stoi(words.at(2))),
      std::stoull(words.at(3))};
  std::vector<Array> written, kept;
  std::vector<Argument> arguments;
  for (std::size_t i = 0; i < launcher.parameters.size(); ++i) {
    const Parameter& parameter = launcher.parameters[i];
    const std::string& word = words.at(4 + i);
    if (!parameter.array) {
      // An integer that a double cannot hold exactly must not go through one.
      arguments.push_back({nullptr, std::strtoll(word.c_str(), nullptr, 10), std::stod(word)});
    } else if (word == "null") {
      arguments.push_back({});
    } else {
      auto& arrays = parameter.writable ? written : kept;
      arrays.push_back(read(word));
      arguments.push_back({arrays.back().data.get(), 0, 0});
    }
  }
  launcher.call(arguments);
  for (const Array& array : written) write(array);
}

}  // namespace

int main(int count, char** words) {
  try {
    run({words + 1, words + count});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return kKernelError;
  }
}
