// One row for each document out of packed rows, and rows of length 1.
#include "common.cuh"

// The numbers of src/pool/mod.rs.
constexpr int FIRST = 1, LAST = 2, MAXIMUM = 3;  // 0 is the mean.

// Each thread owns a column of a document, and goes down its rows in order. A document without rows gives zeros. Offsets that
// point outside of the rows are moved to their ends.
template <class T> __device__ __forceinline__ void pool(const T *x, const i64 *offsets, T *y, i64 rows, int width, int kind) {
  const i64 document = blockIdx.x;
  const int column = blockIdx.y * blockDim.x + threadIdx.x;
  if (column >= width) return;
  i64 start = offsets[document], end = offsets[document + 1];
  start = start < 0 ? 0 : start > rows ? rows : start;
  end = end < start ? start : end > rows ? rows : end;
  float result = 0.f;
  if (start < end) {
    if (kind == FIRST) result = to_f32(x[start * width + column]);
    else if (kind == LAST) result = to_f32(x[(end - 1) * width + column]);
    else if (kind == MAXIMUM) {
      result = -infinity();
      for (i64 row = start; row < end; ++row) result = Max::join(to_f32(x[row * width + column]), result);
    } else {
      // Sums of 64 rows, added up: the error grows with the number of sums, not with the number of rows.
      for (i64 row = start; row < end;) {
        const i64 stop = end - row > 64 ? row + 64 : end;
        float sum = 0.f;
        for (; row < stop; ++row) sum += to_f32(x[row * width + column]);
        result += sum;
      }
      result /= static_cast<float>(end - start);
    }
  }
  y[document * width + column] = from_f32<T>(result);
}

// y = x / max(|x|, epsilon).
template <class T> __device__ __forceinline__ void normalise(const T *x, T *y, i64 rows, int width, float epsilon) {
  constexpr int COUNT = Pack<T>::COUNT;
  SHARED(float, scratch, 32);
  const i64 row = static_cast<i64>(blockIdx.x) * blockDim.y + threadIdx.y;
  const int count = row < rows ? width : 0, step = blockDim.x * COUNT;
  const T *from = x + row * width;
  const bool aligned = is_aligned(x) && is_aligned(y) && width % COUNT == 0;
  float values[COUNT], squares = 0.f;
  for (int start = threadIdx.x * COUNT; start < count; start += step) {
    load_pack(from, start, count, aligned, values, 0.f);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) squares += values[i] * values[i];
  }
  const float length = sqrtf(row_reduce<Sum>(squares, scratch));
  const float factor = 1.f / (length < epsilon ? epsilon : length);
  for (int start = threadIdx.x * COUNT; start < count; start += step) {
    load_pack(from, start, count, aligned, values, 0.f);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) values[i] *= factor;
    store_pack(y + row * width, start, count, aligned, values);
  }
}

#define POOL(suffix, T)                                                                                                 \
  KERNEL(256, pool_##suffix, const T *x, const i64 *offsets, T *y, i64 rows, int width, int kind) {                     \
    pool<T>(x, offsets, y, rows, width, kind);                                                                          \
  }                                                                                                                     \
  KERNEL(256, l2_normalise_##suffix, const T *x, T *y, i64 rows, int width, float epsilon) {                            \
    normalise<T>(x, y, rows, width, epsilon);                                                                           \
  }

POOL(f32, float)
POOL(bf16, bf16)
POOL(f16, f16)
