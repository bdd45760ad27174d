#include "sparse_linear_kernels.h"

#include "vectors.h"

namespace neuropatch::cpu {

namespace {

// A row of the weight matrix has one run of edits. Its sum over the run is taken in the order of the
// edits for each token by itself, so neither other tokens nor the way of reading the input can change
// a bit of it. There are three ways: each has sum_run(), which writes the sums of a run over all
// tokens of the block.

// sum + a * b, rounded once where the instruction set can, as the compiler does for vectors there. Left
// to itself it fuses some scalar loops and not others.
template <typename Vector>
NP_INLINE float multiply_add(float a, float b, float sum) {
#if defined(__FP_FAST_FMAF)
  constexpr bool kFused = true;
#else
  constexpr bool kFused = Vector::kLanes > Vector128::kLanes;
#endif
  if constexpr (kFused) {
    return __builtin_fmaf(a, b, sum);
  }
  return sum + a * b;
}

// The input as it lies: each edit gathers its column. Best for few edits.
template <typename Vector, typename Element>
struct Gathered {
  const SparseBlock& block;

  NP_INLINE void sum_run(int64_t first, int64_t last, float* sums) const {
    const auto* data = static_cast<const typename Element::Storage*>(block.input.data);
    const int64_t stride = block.input.token_stride;
    for (int64_t t = 0; t < block.tokens; ++t) {
      sums[t] = 0.0f;
    }
    for (int64_t e = first; e < last; ++e) {
      const auto* source = data + block.columns[e] * block.input.column_stride;
      const float delta = block.delta[e];
      for (int64_t t = 0; t < block.tokens; ++t) {
        sums[t] = multiply_add<Vector>(Element::load(source[t * stride]), delta, sums[t]);
      }
    }
  }
};

// The same for one token, with the sum in a register.
template <typename Vector, typename Element>
struct Single {
  const SparseBlock& block;

  NP_INLINE void sum_run(int64_t first, int64_t last, float* sums) const {
    const auto* data = static_cast<const typename Element::Storage*>(block.input.data);
    float sum = 0.0f;
    for (int64_t e = first; e < last; ++e) {
      const auto* source = data + block.columns[e] * block.input.column_stride;
      sum = multiply_add<Vector>(Element::load(*source), block.delta[e], sum);
    }
    sums[0] = sum;
  }
};

// The input transposed into scratch once: an edit reads one cache line. Best for many edits.
template <typename Vector>
struct Transposed {
  const SparseBlock& block;

  NP_INLINE void sum_run(int64_t first, int64_t last, float* sums) const {
    using Floats = typename Vector::Floats;
    constexpr int kVectors = kBlockTokens / Vector::kLanes;
    Floats sum[kVectors] = {};
    for (int64_t e = first; e < last; ++e) {
      const auto* source =
          reinterpret_cast<const Floats*>(block.scratch + block.columns[e] * kBlockTokens);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sum[v] += source[v] * block.delta[e];
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      reinterpret_cast<Floats*>(sums)[v] = sum[v];
    }
  }
};

template <typename Element>
NP_INLINE void transpose(const SparseBlock& block) {
  const auto* source = static_cast<const typename Element::Storage*>(block.input.data);
  for (int64_t column = 0; column < block.in; ++column) {
    for (int64_t t = 0; t < kBlockTokens; ++t) {
      block.scratch[column * kBlockTokens + t] = t < block.tokens
          ? Element::load(
                source[t * block.input.token_stride + column * block.input.column_stride])
          : 0.0f;
    }
  }
}

template <typename Element, typename Way>
NP_INLINE void add_runs(const SparseBlock& block, const Way& way) {
  auto* result = static_cast<typename Element::Storage*>(block.result.data);
  alignas(64) float sums[kBlockTokens];
  for (int64_t first = 0; first < block.edits;) {
    const int64_t row = block.rows[first];
    int64_t last = first + 1;
    while (last < block.edits && block.rows[last] == row) {
      ++last;
    }
    way.sum_run(first, last, sums);
    for (int64_t t = 0; t < block.tokens; ++t) {
      auto& place = result[t * block.result.token_stride + row * block.result.column_stride];
      place = Element::store(Element::load(place) + sums[t]);
    }
    first = last;
  }
}

template <typename Vector, typename Element>
NP_INLINE void add_typed(const SparseBlock& block) {
  if (block.tokens == 1) {
    add_runs<Element>(block, Single<Vector, Element>{block});
    // Transposing reads and writes every column; gathering touches a cache line a token and edit.
  } else if (block.tokens > kBlockTokens / 2 && block.edits > block.in / 2) {
    transpose<Element>(block);
    add_runs<Element>(block, Transposed<Vector>{block});
  } else {
    add_runs<Element>(block, Gathered<Vector, Element>{block});
  }
}

template <typename Vector>
NP_INLINE void add(const SparseBlock& block) {
  switch (block.input.type) {
    case ElementType::kFloat32:
      return add_typed<Vector, Float32>(block);
    case ElementType::kBFloat16:
      return add_typed<Vector, BFloat16>(block);
    case ElementType::kFloat16:
      return add_typed<Vector, Float16>(block);
  }
}

}  // namespace

static void portable_add(const SparseBlock& block) {
  add<Vector128>(block);
}

#if defined(__x86_64__)
NP_AVX2 static void avx2_add(const SparseBlock& block) {
  add<Vector256>(block);
}

NP_AVX512 static void avx512_add(const SparseBlock& block) {
  add<Vector512>(block);
}
#endif

SparseLinearKernel sparse_linear_kernel(Capability capability) {
  return NP_CHOOSE(capability, add);
}

}  // namespace neuropatch::cpu
