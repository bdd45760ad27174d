// product_topk on the CPU: tiles of products that never leave the cache, and of each only what
// passes a threshold that rises as better products are found.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "../common/topk_arguments.h"
#include "instruction_sets.h"
#include "parallel.h"
#include "strided.h"

namespace neuropatch::cpu {

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileColumns = 256;

// Columns [0, columns) of a row: |weight| * score / divisor into `products`. Returns whether any of
// them is not below the threshold, NaN included.
template <typename Element>
NP_INLINE bool row_products(
    const typename Element::Storage* weight, const float* score, int64_t columns, float divisor,
    float threshold, float* __restrict products) {
  int32_t any = 0;
  for (int64_t j = 0; j < columns; ++j) {
    const float magnitude = float_from_bits(bits_of_float(Element::load(weight[j])) & 0x7fffffffu);
    const float product = score[j] * magnitude / divisor;
    products[j] = product;
    any |= static_cast<int32_t>(!(product < threshold));
  }
  return any != 0;
}

NP_INLINE bool any_row_products(
    ElementType type, const void* weight, const float* score, int64_t columns, float divisor,
    float threshold, float* products) {
  bool any = false;
  with_element(type, [&](auto element) __attribute__((always_inline)) {
    using Element = decltype(element);
    any = row_products<Element>(
        static_cast<const typename Element::Storage*>(weight), score, columns, divisor, threshold,
        products);
  });
  return any;
}

#define NP_DEFINE(NAME, TARGET)                                                              \
  TARGET static bool NAME##_products(                                                        \
      ElementType type, const void* weight, const float* score, int64_t columns,              \
      float divisor, float threshold, float* products) {                                     \
    return any_row_products(type, weight, score, columns, divisor, threshold, products);     \
  }
NP_EACH_INSTRUCTION_SET(NP_DEFINE)
#undef NP_DEFINE

// Copies a tile as floats, reading along the smaller stride, which is the rows' of a transposed
// matrix.
void gather_tile(
    const StridedMatrix& matrix, int64_t row, int64_t rows, int64_t column, int64_t columns,
    float* tile) {
  with_element(matrix.type, [&](auto element) {
    using Element = decltype(element);
    const auto* data = static_cast<const typename Element::Storage*>(matrix.data) +
        row * matrix.row_stride + column * matrix.column_stride;
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t i = 0; i < rows; ++i) {
        tile[i * kTileColumns + j] =
            Element::load(data[i * matrix.row_stride + j * matrix.column_stride]);
      }
    }
  });
}

struct Entry {
  float value;
  int64_t index;

  float rank() const {
    return std::isfinite(value) ? value : std::numeric_limits<float>::infinity();
  }

  // Before `other` in the result: a total order, so the result depends on no partition of the work.
  bool operator<(const Entry& other) const {
    const float mine = rank(), theirs = other.rank();
    return mine != theirs ? mine > theirs : index < other.index;
  }
};

// Keeps the best k of the entries it has seen, in memory for 2 * k.
class Best {
 public:
  Best(int64_t k, int64_t all, float threshold)
      : k_(k), capacity_(k > all / 2 ? all : 2 * k), threshold_(threshold) {
    // Reserved here, because an exception must not leave a worker. The pages are touched as needed.
    entries_.reserve(capacity_);
  }

  float threshold() const { return threshold_; }

  const std::vector<Entry>& entries() const { return entries_; }

  void add(float value, int64_t index) {
    if (value < threshold_) {
      return;
    }
    entries_.push_back({value, index});
    if (static_cast<int64_t>(entries_.size()) == capacity_ && capacity_ > k_) {
      keep();
    }
  }

 private:
  void keep() {
    std::nth_element(entries_.begin(), entries_.begin() + (k_ - 1), entries_.end());
    entries_.resize(k_);
    // Equal values with a lower index may still come, so the threshold itself is let through.
    threshold_ = std::max(threshold_, entries_.back().rank());
  }

  int64_t k_;
  int64_t capacity_;
  float threshold_;
  std::vector<Entry> entries_;
};

class ProductTopk {
 public:
  ProductTopk(StridedMatrix weight, StridedMatrix score, float divisor)
      : weight_(weight),
        score_(score),
        divisor_(divisor),
        kernel_(NP_CHOOSE(current_capability(), products)),
        tiles_per_row_(ceil_div(weight.columns, kTileColumns)),
        tiles_(tiles_per_row_ * ceil_div(weight.rows, kTileRows)) {}

  std::vector<Entry> run(int64_t k, float floor) const {
    const int64_t all = weight_.rows * weight_.columns;
    const int64_t workers = std::min<int64_t>(torch::stable::get_num_threads(), tiles_);
    const float above = std::nextafterf(floor, std::numeric_limits<float>::infinity());
    std::vector<Best> best;
    best.reserve(workers);
    for (int64_t worker = 0; worker < workers; ++worker) {
      best.emplace_back(k, all, above);
    }
    const Workspace scratch = allocate(workers * kScratch);
    std::atomic<int64_t> next{0};
    for_each_worker(workers, [&](int64_t worker) {
      for (int64_t tile = next++; tile < tiles_; tile = next++) {
        scan(tile, scratch.get() + worker * kScratch, best[worker]);
      }
    });
    return merged(best, k);
  }

 private:
  static constexpr int64_t kTile = kTileRows * kTileColumns;
  static constexpr int64_t kScratch = 2 * kTile + kTileColumns;

  // The tile of a matrix with rows of adjacent elements where it is, of any other one as a copy.
  static StridedMatrix tile_of(
      const StridedMatrix& matrix, int64_t row, int64_t rows, int64_t column, int64_t columns,
      float* copy) {
    if (matrix.column_stride == 1) {
      const int64_t size = matrix.type == ElementType::kFloat32 ? 4 : 2;
      const char* data = static_cast<const char*>(matrix.data) +
          (row * matrix.row_stride + column) * size;
      return {data, matrix.type, rows, columns, matrix.row_stride * size, size};
    }
    gather_tile(matrix, row, rows, column, columns, copy);
    return {copy, ElementType::kFloat32, rows, columns, kTileColumns * 4, 4};
  }

  void scan(int64_t tile, float* scratch, Best& best) const {
    const int64_t row = tile / tiles_per_row_ * kTileRows;
    const int64_t column = tile % tiles_per_row_ * kTileColumns;
    const int64_t rows = std::min(kTileRows, weight_.rows - row);
    const int64_t columns = std::min(kTileColumns, weight_.columns - column);
    // Row strides of tiles are counted in bytes.
    const StridedMatrix weight = tile_of(weight_, row, rows, column, columns, scratch);
    const StridedMatrix score = tile_of(score_, row, rows, column, columns, scratch + kTile);
    float* products = scratch + 2 * kTile;
    for (int64_t i = 0; i < rows; ++i) {
      const auto* weights = static_cast<const char*>(weight.data) + i * weight.row_stride;
      const auto* scores = static_cast<const char*>(score.data) + i * score.row_stride;
      if (!kernel_(
              weight.type, weights, reinterpret_cast<const float*>(scores), columns, divisor_,
              best.threshold(), products)) {
        continue;
      }
      for (int64_t j = 0; j < columns; ++j) {
        best.add(products[j], (row + i) * weight_.columns + column + j);
      }
    }
  }

  static std::vector<Entry> merged(const std::vector<Best>& best, int64_t k) {
    std::vector<Entry> entries;
    for (const Best& part : best) {
      entries.insert(entries.end(), part.entries().begin(), part.entries().end());
    }
    if (static_cast<int64_t>(entries.size()) > k) {
      std::nth_element(entries.begin(), entries.begin() + (k - 1), entries.end());
      entries.resize(k);
    }
    std::sort(entries.begin(), entries.end());
    return entries;
  }

  StridedMatrix weight_;
  StridedMatrix score_;
  float divisor_;
  bool (*kernel_)(ElementType, const void*, const float*, int64_t, float, float, float*);
  int64_t tiles_per_row_;
  int64_t tiles_;
};

std::tuple<Tensor, Tensor> product_topk(
    Tensor weight, Tensor score, double divisor, int64_t k, double floor) {
  check_topk_arguments(weight, score, divisor, k, floor);
  const int64_t places = std::min(k, score.numel());
  Tensor values = torch::stable::new_empty(score, {places}, ScalarType::Float);
  Tensor indices = torch::stable::new_empty(score, {places}, ScalarType::Long);
  if (places == 0) {
    return {values, indices};
  }
  const ProductTopk topk(
      strided_matrix(weight), strided_matrix(score), static_cast<float>(divisor));
  const std::vector<Entry> entries = topk.run(places, static_cast<float>(floor));
  auto* value = static_cast<float*>(values.mutable_data_ptr());
  auto* index = static_cast<int64_t*>(indices.mutable_data_ptr());
  for (int64_t i = 0; i < places; ++i) {
    const bool found = i < static_cast<int64_t>(entries.size());
    value[i] = found ? entries[i].value : 0;
    index[i] = found ? entries[i].index : -1;
  }
  return {values, indices};
}

}  // namespace

}  // namespace neuropatch::cpu

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CPU, m) {
  m.impl("product_topk", TORCH_BOX(&neuropatch::cpu::product_topk));
}
