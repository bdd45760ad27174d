// The largest products |weight| * score / divisor of a matrix, found without storing the products: a
// radix selection that computes them anew in every pass. The numbers it selects by are all different,
// so the outcome does not depend on the order in which anything is counted.

#pragma once

#include "elements.cuh"

namespace neuropatch::cuda {

inline constexpr int kTopThreads = 256;
inline constexpr int kTopBlocks = 1056;  // 8 for each multiprocessor of an H100
inline constexpr int kSegmentColumns = 4 * kTopThreads;  // of a row, read by a block at once
inline constexpr int kBins = 2048;

// The digits of an order number, highest first: 31 bits of the value, then 32 of the index.
struct Digit {
  int shift;
  int bits;
};
inline constexpr int kDigits = 6;
inline constexpr Digit kDigitPlaces[kDigits] = {{52, 11}, {42, 10}, {32, 10},
                                                {21, 11}, {10, 11}, {0, 10}};

struct TopState {
  unsigned bins[kBins];
  unsigned long long threshold;  // the digits found so far
  long long wanted;              // of the elements with those digits
  unsigned long long found;      // elements collected
  int done;                      // all elements from the threshold on are wanted
};

template <typename Element>
__device__ __forceinline__ float product(
    const TopProducts& arguments, int64_t row, int64_t column) {
  const Element weight = static_cast<const Element*>(arguments.weight.data)
      [row * arguments.weight.row_stride + column * arguments.weight.column_stride];
  const float score = static_cast<const float*>(arguments.score.data)
      [row * arguments.score.row_stride + column * arguments.score.column_stride];
  return score * fabsf(static_cast<float>(weight)) / arguments.divisor;
}

// Zero where the product is not above the floor. What is not finite ranks as infinity; the lower of two
// indices makes the higher number.
__device__ __forceinline__ unsigned long long order_number(
    float product, float floor, int64_t index) {
  const unsigned kInfinity = 0x7f800000u;
  const unsigned bits = __float_as_uint(product) & 0x7fffffffu;
  if (bits < kInfinity && !(product > floor)) {
    return 0;
  }
  const unsigned rank = bits < kInfinity ? bits : kInfinity;
  return (static_cast<unsigned long long>(rank) << 32) | (0xffffffffu - static_cast<unsigned>(index));
}

// Calls function(order number) for the elements that the thread's block goes through.
template <typename Element, typename Function>
__device__ __forceinline__ void for_each_product(
    const TopProducts& arguments, const Function& function) {
  const int64_t per_row = (arguments.columns + kSegmentColumns - 1) / kSegmentColumns;
  for (int64_t segment = blockIdx.x; segment < arguments.rows * per_row; segment += gridDim.x) {
    const int64_t row = segment / per_row;
    const int64_t first = segment % per_row * kSegmentColumns + threadIdx.x;
#pragma unroll
    for (int i = 0; i < kSegmentColumns; i += kTopThreads) {
      const int64_t column = first + i;
      if (column < arguments.columns) {
        const unsigned long long number = order_number(
            product<Element>(arguments, row, column), arguments.floor,
            row * arguments.columns + column);
        if (number != 0) {
          function(number);
        }
      }
    }
  }
}

// Counts the values of one digit among the elements whose higher digits are those found so far.
template <typename Element>
__global__ void __launch_bounds__(kTopThreads) count_digit_kernel(
    TopProducts arguments, TopState* state, Digit digit) {
  __shared__ unsigned bins[kBins];
  if (state->done) {
    return;
  }
  for (int bin = threadIdx.x; bin < kBins; bin += kTopThreads) {
    bins[bin] = 0;
  }
  __syncthreads();
  const int above = digit.shift + digit.bits;
  const unsigned long long found = state->threshold >> above;
  for_each_product<Element>(arguments, [&](unsigned long long number) {
    if (number >> above == found) {
      atomicAdd(&bins[number >> digit.shift & ((1u << digit.bits) - 1)], 1u);
    }
  });
  __syncthreads();
  for (int bin = threadIdx.x; bin < kBins; bin += kTopThreads) {
    if (bins[bin] != 0) {
      atomicAdd(&state->bins[bin], bins[bin]);
    }
  }
}

// Finds the value of the digit at which enough elements are counted from above, in one block, and
// clears the counts.
template <typename State>
__global__ void __launch_bounds__(kTopThreads) choose_digit_kernel(State* state, Digit digit) {
  constexpr int kPerThread = kBins / kTopThreads;
  __shared__ unsigned long long from[kTopThreads];  // counted in the bins of a thread, then from it on
  if (state->done) {
    return;
  }
  const int thread = static_cast<int>(threadIdx.x);
  unsigned counts[kPerThread];
  unsigned long long own = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    counts[i] = state->bins[thread * kPerThread + i];
    own += counts[i];
    state->bins[thread * kPerThread + i] = 0;
  }
  from[thread] = own;
  __syncthreads();
  for (int step = 1; step < kTopThreads; step *= 2) {
    const unsigned long long more = thread + step < kTopThreads ? from[thread + step] : 0;
    __syncthreads();
    from[thread] += more;
    __syncthreads();
  }
  const auto wanted = static_cast<unsigned long long>(state->wanted);
  const unsigned long long all = from[0];
  unsigned long long above = from[thread] - own;
  __syncthreads();  // all threads have read what one of them changes
  if (all < wanted) {
    // Only of the first digit: fewer elements than wanted are above the floor.
    if (thread == 0) {
      state->done = 1;
    }
    return;
  }
  if (above >= wanted || above + own < wanted) {
    return;
  }
#pragma unroll
  for (int i = kPerThread - 1; i >= 0; --i) {
    if (above < wanted && above + counts[i] >= wanted) {
      const auto value = static_cast<unsigned long long>(thread * kPerThread + i);
      state->threshold |= value << digit.shift;
      state->wanted = static_cast<long long>(wanted - above);
      state->done = above + counts[i] == wanted;
    }
    above += counts[i];
  }
}

template <typename State>
__global__ void __launch_bounds__(kTopThreads) start_top_kernel(State* state, long long wanted) {
  for (int bin = threadIdx.x; bin < kBins; bin += kTopThreads) {
    state->bins[bin] = 0;
  }
  if (threadIdx.x == 0) {
    state->threshold = 0;
    state->wanted = wanted;
    state->found = 0;
    state->done = 0;
  }
}

template <typename Element>
__global__ void __launch_bounds__(kTopThreads) collect_top_kernel(
    TopProducts arguments, TopState* state, int64_t* order) {
  const unsigned long long threshold = state->threshold;
  for_each_product<Element>(arguments, [&](unsigned long long number) {
    if (number >= threshold) {
      order[atomicAdd(&state->found, 1ull)] = static_cast<int64_t>(number);
    }
  });
}

template <typename Element>
__global__ void __launch_bounds__(kTopThreads) list_top_kernel(
    TopProducts arguments, const int64_t* order, float* values, int64_t* indices) {
  const int64_t place = static_cast<int64_t>(blockIdx.x) * kTopThreads + threadIdx.x;
  if (place >= arguments.k) {
    return;
  }
  const int64_t number = order[place];
  const int64_t index = 0xffffffffll - (number & 0xffffffffll);
  values[place] = number == 0 ? 0.0f
                              : product<Element>(
                                    arguments, index / arguments.columns, index % arguments.columns);
  indices[place] = number == 0 ? -1 : index;
}

}  // namespace neuropatch::cuda
