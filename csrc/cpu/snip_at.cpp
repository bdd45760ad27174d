// snip_accumulate_at_ on the CPU. Every element is the chain of multiplications and additions that
// snip_kernels.cpp runs for it, token by token: same bits, for a few elements of the matrix.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>
#include <vector>

#include "../common/snip_at_arguments.h"
#include "instruction_sets.h"
#include "parallel.h"
#include "strided.h"

#if NEUROPATCH_X86_BFLOAT16
#include <xmmintrin.h>
#endif

namespace neuropatch::cpu {

namespace {

using torch::stable::Tensor;

// Enough independent chains to hide the latency of an addition.
constexpr int kLanes = 8;
// A block to be transposed: 16 tokens are a cache line of a packed column.
constexpr int64_t kPackTokens = 16;
constexpr int64_t kPackColumns = 64;
constexpr int64_t kGroupsPerTask = 16;

// The columns of a matrix that are asked for, each once, as rows of floats: [count][stride].
class PackedColumns {
 public:
  PackedColumns(const StridedMatrix& matrix, const int32_t* columns, int64_t count)
      : matrix_(matrix), stride_(ceil_div(matrix.rows, 16) * 16), slots_(matrix.columns, -1) {
    // An odd number of cache lines: rows a power of two apart would fight for one set of the cache.
    stride_ += stride_ / 16 % 2 == 0 ? 16 : 0;
    for (int64_t c = 0; c < count; ++c) {
      slots_[columns[c]] = 0;
    }
    for (int64_t column = 0; column < matrix.columns; ++column) {
      if (slots_[column] == 0) {
        slots_[column] = static_cast<int64_t>(columns_.size());
        columns_.push_back(column);
      }
    }
    data_ = allocate(static_cast<int64_t>(columns_.size()) * stride_);
  }

  int64_t tasks() const { return ceil_div(matrix_.rows, kPackTokens); }

  void pack(int64_t task) {
    const int64_t start = task * kPackTokens;
    const int64_t stop = std::min(matrix_.rows, start + kPackTokens);
    const auto count = static_cast<int64_t>(columns_.size());
    with_element(matrix_.type, [&](auto element) {
      using Element = decltype(element);
      const auto* data = static_cast<const typename Element::Storage*>(matrix_.data);
      // Rows are read in order; of each column that is written to one cache line is at hand.
      for (int64_t first = 0; first < count; first += kPackColumns) {
        const int64_t last = std::min(count, first + kPackColumns);
        for (int64_t t = start; t < stop; ++t) {
          const auto* source = data + t * matrix_.row_stride;
          for (int64_t slot = first; slot < last; ++slot) {
            data_[slot * stride_ + t] = Element::load(source[columns_[slot] * matrix_.column_stride]);
          }
        }
      }
    });
  }

  const float* column(int32_t column) const {
    return data_.get() + slots_[column] * stride_;
  }

 private:
  StridedMatrix matrix_;
  int64_t stride_;
  std::vector<int64_t> slots_;
  std::vector<int64_t> columns_;
  Workspace data_;
};

// kLanes elements: their columns of G and of X, and the sum over samples of each.
struct Lanes {
  const float* grad[kLanes];
  const float* input[kLanes];
  float total[kLanes];
};

// One step of a chain, rounded as the compiler makes `sum += x * g` of whole vectors in
// snip_kernels.cpp: once where the instruction set has a fused operation, otherwise twice. Spelt out,
// because the compiler may fuse some of a row of scalar operations and not others.
template <bool kFused>
NP_INLINE float step(float x, float g, float sum) {
  return kFused ? __builtin_fmaf(x, g, sum) : sum + x * g;
}

#if defined(__FP_FAST_FMAF)
constexpr bool portable_fused = true;
#else
constexpr bool portable_fused = false;
#endif
[[maybe_unused]] constexpr bool avx2_fused = true;
[[maybe_unused]] constexpr bool avx512_fused = true;

// kOneRow: all lanes have one column of G, which is then read once.
template <bool kFused, bool kOneRow>
NP_INLINE void sum_samples(const int64_t* offsets, int64_t samples, Lanes& lanes) {
  for (int64_t b = 0; b < samples; ++b) {
    float sum[kLanes] = {};
    for (int64_t t = offsets[b]; t < offsets[b + 1]; ++t) {
#pragma GCC unroll 8
      for (int l = 0; l < kLanes; ++l) {
        sum[l] = step<kFused>(lanes.input[l][t], lanes.grad[kOneRow ? 0 : l][t], sum[l]);
      }
    }
    for (int l = 0; l < kLanes; ++l) {
      lanes.total[l] += std::fabs(sum[l]);
    }
  }
}

template <bool kFused>
NP_INLINE void sum_lanes(const int64_t* offsets, int64_t samples, Lanes& lanes) {
  bool one_row = true;
  for (int l = 1; l < kLanes; ++l) {
    one_row = one_row && lanes.grad[l] == lanes.grad[0];
  }
  if (one_row) {
    sum_samples<kFused, true>(offsets, samples, lanes);
  } else {
    sum_samples<kFused, false>(offsets, samples, lanes);
  }
}

#define NP_DEFINE(NAME, TARGET)                                                          \
  TARGET static void NAME##_lanes(const int64_t* offsets, int64_t samples, Lanes& lanes) { \
    sum_lanes<NAME##_fused>(offsets, samples, lanes);                                    \
  }
NP_EACH_INSTRUCTION_SET(NP_DEFINE)
#undef NP_DEFINE

// While one lives, subnormal operands and results are zero, as they are to the dot products that
// snip_accumulate_ takes for bfloat16 (vdpbf16ps rounds each of its two products like an FMA, but
// flushes). The sums over samples that are made meanwhile are zero or normal.
class Flushing {
 public:
  explicit Flushing(bool wanted) : wanted_(wanted) {
#if NEUROPATCH_X86_BFLOAT16
    if (wanted_) {
      before_ = _mm_getcsr();
      _mm_setcsr(before_ | kFlushToZero | kDenormalsAreZero);
    }
#endif
  }

  ~Flushing() {
#if NEUROPATCH_X86_BFLOAT16
    if (wanted_) {
      _mm_setcsr(before_);
    }
#endif
  }

  Flushing(const Flushing&) = delete;
  Flushing& operator=(const Flushing&) = delete;

 private:
  static constexpr unsigned kFlushToZero = 0x8000;
  static constexpr unsigned kDenormalsAreZero = 0x0040;
  [[maybe_unused]] bool wanted_;
  [[maybe_unused]] unsigned before_ = 0;
};

template <typename Function>
void for_each_task(int64_t tasks, const Function& function) {
  std::atomic<int64_t> next{0};
  for_each_worker(std::min<int64_t>(torch::stable::get_num_threads(), tasks), [&](int64_t) {
    for (int64_t task = next++; task < tasks; task = next++) {
      function(task);
    }
  });
}

void snip_accumulate_at_(
    Tensor score, Tensor grad, Tensor input, Tensor offsets, Tensor rows, Tensor columns) {
  const std::vector<int64_t> starts =
      checked_snip_at_offsets(score, grad, input, offsets, rows, columns);
  const int64_t count = score.numel();
  const auto* row = static_cast<const int32_t*>(rows.const_data_ptr());
  const auto* column = static_cast<const int32_t*>(columns.const_data_ptr());
  check_places("rows", row, count, grad.size(1));
  check_places("columns", column, count, input.size(1));
  if (count == 0 || grad.size(0) == 0) {
    return;
  }
  PackedColumns g(strided_matrix(grad), row, count);
  PackedColumns x(strided_matrix(input), column, count);
  for_each_task(g.tasks() + x.tasks(), [&](int64_t task) {
    task < g.tasks() ? g.pack(task) : x.pack(task - g.tasks());
  });
  auto* result = static_cast<float*>(score.mutable_data_ptr());
  const auto kernel = NP_CHOOSE(current_capability(), lanes);
  const bool flushes = current_bfloat16_unit() == BFloat16Unit::kDotProducts &&
      grad.scalar_type() == torch::headeronly::ScalarType::BFloat16;
  const int64_t samples = static_cast<int64_t>(starts.size()) - 1;
  constexpr int64_t kTaskSize = kGroupsPerTask * kLanes;
  for_each_task(ceil_div(count, kTaskSize), [&](int64_t task) {
    const int64_t stop = std::min(count, (task + 1) * kTaskSize);
    for (int64_t first = task * kTaskSize; first < stop; first += kLanes) {
      const int64_t last = std::min<int64_t>(kLanes, stop - first) - 1;
      Lanes lanes{};
      for (int64_t l = 0; l < kLanes; ++l) {
        // Lanes past the end repeat the last one, and are dropped.
        lanes.grad[l] = g.column(row[first + std::min(l, last)]);
        lanes.input[l] = x.column(column[first + std::min(l, last)]);
      }
      {
        const Flushing flushing(flushes);
        kernel(starts.data(), samples, lanes);
      }
      for (int64_t l = 0; l <= last; ++l) {
        result[first + l] += lanes.total[l];
      }
    }
  });
}

}  // namespace

}  // namespace neuropatch::cpu

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CPU, m) {
  m.impl("snip_accumulate_at_", TORCH_BOX(&neuropatch::cpu::snip_accumulate_at_));
}
