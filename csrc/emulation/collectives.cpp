// Compiled without sanitizers, as runtime.cpp is: one lane computes for all lanes of its warp.

#include "collectives.h"

#include <cstdio>

namespace np::emulation {
namespace {

struct ShuffleArguments {
  Shuffle kind;
  int argument;
  int width;
  std::uint64_t bits;
  std::uint64_t result;
};

// The lane that `lane` reads from, which is itself where the one it means is outside its segment.
// Parallel Thread Execution ISA, "Data Movement and Conversion Instructions: shfl.sync".
int source_lane(const ShuffleArguments& arguments, int lane) {
  const int first = lane & ~(arguments.width - 1);
  const int end = first + arguments.width;
  int source = lane;
  switch (arguments.kind) {
    case Shuffle::kIndex:
      return first + (arguments.argument & (arguments.width - 1));
    case Shuffle::kUp:
      source = lane - arguments.argument;
      return source < first ? lane : source;
    case Shuffle::kDown:
      source = lane + arguments.argument;
      break;
    case Shuffle::kXor:
      source = lane ^ arguments.argument;
      break;
  }
  return source >= end ? lane : source;
}

void combine_shuffle(void* const (&arguments)[warpSize], unsigned mask, Place place) {
  for (int lane = 0; lane < warpSize; ++lane) {
    if (!(mask >> lane & 1)) continue;
    auto& own = *static_cast<ShuffleArguments*>(arguments[lane]);
    const int source = source_lane(own, lane);
    if (!(mask >> source & 1)) {
      char what[100];
      std::snprintf(
          what, sizeof what, "lane %d reads from lane %d, which the mask 0x%x does not name", lane,
          source, mask);
      fail(place, what);
    }
    own.result = static_cast<ShuffleArguments*>(arguments[source])->bits;
  }
}

struct BallotArguments {
  bool predicate;
  unsigned result;
};

void combine_ballot(void* const (&arguments)[warpSize], unsigned mask, Place) {
  unsigned result = 0;
  for (unsigned lane = 0; lane < warpSize; ++lane) {
    if (mask >> lane & 1) {
      result |= unsigned{static_cast<BallotArguments*>(arguments[lane])->predicate} << lane;
    }
  }
  for (unsigned lane = 0; lane < warpSize; ++lane) {
    if (mask >> lane & 1) static_cast<BallotArguments*>(arguments[lane])->result = result;
  }
}

}  // namespace

std::uint64_t shuffle_bits(
    Shuffle kind, const char* operation, unsigned mask, std::uint64_t bits, int argument, int width,
    Place place) {
  if (width < 1 || width > warpSize || (width & (width - 1))) {
    fail(place, "the width of a shuffle has to be a power of two up to 32");
  }
  ShuffleArguments arguments{kind, argument, width, bits, 0};
  sync_warp(operation, mask, &arguments, combine_shuffle, place);
  return arguments.result;
}

unsigned ballot(const char* operation, unsigned mask, int predicate, Place place) {
  BallotArguments arguments{predicate != 0, 0};
  sync_warp(operation, mask, &arguments, combine_ballot, place);
  return arguments.result;
}

}  // namespace np::emulation
