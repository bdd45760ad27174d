// How far the kernels of snip_accumulate_ are from the peak of one AVX-512 core, and where the time
// goes: packing of G, packing of X, and the loop over tiles. CPU time of one thread, so that other
// programs disturb it less; run by kernel_snip_accumulate.py --profile.
//
// Usage: snip_profile OUT IN SAMPLES

#include <immintrin.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "../csrc/cpu/snip_kernels.h"
#include "../csrc/cpu/workspace.h"

namespace {

using namespace neuropatch::cpu;

constexpr int kRepeats = 15;
constexpr int kGroup = 4;  // panels packed at once, as SnipAccumulation does where they fit

double cpu_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

// Twelve independent chains hide the latency of either instruction. They begin differently, every
// element is used at the end, and the factors change as far as the compiler knows, so that it leaves
// nothing out.
__attribute__((target("avx512f,fma"), noinline)) float multiply_add(long steps) {
  __m512 sum[12], a = _mm512_set1_ps(1.0f), b = _mm512_set1_ps(1e-9f);
  for (int i = 0; i < 12; ++i) {
    sum[i] = _mm512_set1_ps(i);
  }
  for (long t = 0; t < steps; ++t) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) {
      sum[i] = _mm512_fmadd_ps(a, b, sum[i]);
    }
    __asm__ volatile("" : "+v"(a), "+v"(b));
  }
  for (int i = 1; i < 12; ++i) {
    sum[0] += sum[i];
  }
  return _mm512_reduce_add_ps(sum[0]);
}

__attribute__((target("avx512f,avx512bf16"), noinline)) float dot_product(long steps) {
  __m512 sum[12], a = _mm512_set1_ps(1.0f), b = _mm512_set1_ps(1e-9f);
  for (int i = 0; i < 12; ++i) {
    sum[i] = _mm512_set1_ps(i);
  }
  for (long t = 0; t < steps; ++t) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) {
      sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)a, (__m512bh)b);
    }
    __asm__ volatile("" : "+v"(a), "+v"(b));
  }
  for (int i = 1; i < 12; ++i) {
    sum[0] += sum[i];
  }
  return _mm512_reduce_add_ps(sum[0]);
}

double peak_gflops(float (*loop)(long), double flops_per_step) {
  constexpr long kSteps = 300000;
  double best = 1e9;
  for (int i = 0; i < kRepeats; ++i) {
    const double start = cpu_seconds();
    volatile float sink = loop(kSteps);
    (void)sink;
    best = std::min(best, cpu_seconds() - start);
  }
  return 1e-9 * kSteps * flops_per_step / best;
}

struct Problem {
  int64_t out, in;
  std::vector<int64_t> offsets{0};
  std::vector<float> grad, input, score;
};

struct Phases {
  double grad = 0, input = 0, tiles = 0;
};

Phases run(const SnipKernel& kernel, ElementType type, Problem& problem, Workspace& packed_grad,
           Workspace& packed_input, Workspace& sums) {
  const int64_t samples = static_cast<int64_t>(problem.offsets.size()) - 1;
  std::vector<int64_t> steps{0};
  const auto sample_of = [&](const std::vector<float>& data, int64_t columns, int64_t b) {
    const int64_t start = problem.offsets[b];
    return TokenMatrix{data.data(), type, start, problem.offsets[b + 1] - start, columns, columns, 1};
  };
  for (int64_t b = 0; b < samples; ++b) {
    steps.push_back(steps.back() + kernel.steps(problem.offsets[b + 1] - problem.offsets[b]));
  }
  const auto rows_of = [&](int64_t row) { return std::min(kBlockRows, problem.out - row); };

  Phases phases;
  double start = cpu_seconds();
  for (int64_t b = 0; b < samples; ++b) {
    for (int64_t row = 0; row < problem.out; row += kBlockRows) {
      const int64_t packed_rows = ceil_div(rows_of(row), kernel.tile_rows) * kernel.tile_rows;
      kernel.pack_grad(sample_of(problem.grad, problem.out, b), row, rows_of(row),
                       packed_grad.get() + row * steps.back() + steps[b] * packed_rows);
    }
  }
  phases.grad = cpu_seconds() - start;

  const int64_t panel_size = steps.back() * kPanelColumns;
  const int64_t group = std::clamp<int64_t>((128 << 10) / panel_size, 1, kGroup) * kPanelColumns;
  for (int64_t first = 0; first < problem.in; first += group) {
    const int64_t last = std::min(problem.in, first + group);
    start = cpu_seconds();
    for (int64_t column = first; column < last; column += kPanelColumns) {
      for (int64_t b = 0; b < samples; ++b) {
        kernel.pack_input(
            sample_of(problem.input, problem.in, b), column, std::min(kPanelColumns, last - column),
            packed_input.get() + (column - first) * steps.back() + steps[b] * kPanelColumns);
      }
    }
    const double packed = cpu_seconds();
    for (int64_t row = 0; row < problem.out; row += kBlockRows) {
      for (int64_t column = first; column < last; column += kPanelColumns) {
        SnipBlock block{};
        block.grad = packed_grad.get() + row * steps.back();
        block.input = packed_input.get() + (column - first) * steps.back();
        block.steps = steps.data();
        block.samples = samples;
        block.rows = rows_of(row);
        block.columns = std::min(kPanelColumns, last - column);
        block.sums = sums.get();
        block.score = problem.score.data() + row * problem.in + column;
        block.score_stride = problem.in;
        kernel.accumulate(block);
      }
    }
    phases.tiles += cpu_seconds() - packed;
    phases.input += packed - start;
  }
  return phases;
}

void profile(const char* name, const SnipKernel& kernel, ElementType type, Problem& problem,
             double peak) {
  const int64_t tokens = problem.offsets.back();
  Workspace packed_grad = allocate((problem.out + kBlockRows) * tokens);
  Workspace packed_input = allocate(kGroup * kPanelColumns * tokens);
  Workspace sums = allocate(kBlockRows * kPanelColumns);
  std::vector<Phases> all;
  for (int i = 0; i < kRepeats; ++i) {
    all.push_back(run(kernel, type, problem, packed_grad, packed_input, sums));
  }
  const auto median = [&](double Phases::*phase) {
    std::sort(all.begin(), all.end(),
              [phase](const Phases& a, const Phases& b) { return a.*phase < b.*phase; });
    return all[kRepeats / 2].*phase;
  };
  const double grad = median(&Phases::grad), input = median(&Phases::input);
  const double tiles = median(&Phases::tiles);
  const double flops = 2e-9 * problem.out * problem.in * tokens;
  std::printf(
      "%-9s peak %.0f GFLOP/s; pack G %.2f ms, pack X %.2f ms, tiles %.2f ms = %.0f GFLOP/s = %.0f %% "
      "of peak; together %.0f GFLOP/s = %.0f %%\n",
      name, peak, 1e3 * grad, 1e3 * input, 1e3 * tiles, flops / tiles, 100 * flops / tiles / peak,
      flops / (grad + input + tiles), 100 * flops / (grad + input + tiles) / peak);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4 || !__builtin_cpu_supports("avx512f")) {
    std::fprintf(stderr, "usage: snip_profile OUT IN SAMPLES, on a CPU with AVX-512\n");
    return 2;
  }
  Problem problem;
  problem.out = std::atol(arguments[1]);
  problem.in = std::atol(arguments[2]);
  std::mt19937 generator(0);
  for (int64_t b = std::atol(arguments[3]); b > 0; --b) {
    problem.offsets.push_back(problem.offsets.back() + 50 + generator() % 53);
  }
  const int64_t tokens = problem.offsets.back();
  const auto fill = [&](std::vector<float>& values, int64_t size) {
    values.resize(size);
    for (float& value : values) {
      value = static_cast<float>(static_cast<int>(generator() % 2001) - 1000) / 1000;
    }
  };
  fill(problem.grad, tokens * problem.out);
  fill(problem.input, tokens * problem.in);
  problem.score.resize(problem.out * problem.in);
  std::printf("%ld x %ld, %ld tokens, one thread, medians of %d:\n", static_cast<long>(problem.out),
              static_cast<long>(problem.in), static_cast<long>(tokens), kRepeats);
  profile("float32", vector_snip_kernel(Capability::kAvx512), ElementType::kFloat32, problem,
          peak_gflops(multiply_add, 12 * 32));
  if (__builtin_cpu_supports("avx512bf16")) {
    // The bytes are those of float32, read as twice as many bfloat16: the speed does not depend on
    // them.
    profile("bfloat16", kDotProductSnipKernel, ElementType::kBFloat16, problem,
            peak_gflops(dot_product, 12 * 64));
  }
  return 0;
}
