// Kernels with planted mistakes, and kernels that do unusual things rightly: the shim's own tests.
#include "mma.cuh"

KERNEL(256, planted_missing_barrier, float *y) {
  SHARED(float, values, 256);
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  y[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

KERNEL(256, planted_missing_second_barrier, float *y) {
  SHARED(float, value, 1);
  for (int i = 0; i < 3; ++i) {
    if (threadIdx.x == 0) value[0] = static_cast<float>(i);
    __syncthreads();
    y[threadIdx.x] = value[0];
  }
}

KERNEL(64, planted_divergent_barrier, float *y) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    y[threadIdx.x] = 1.f;
    __syncthreads();
  }
}

KERNEL(64, planted_deadlock, float *y) {
  if (threadIdx.x % WARP < 16) y[threadIdx.x] = __shfl_xor_sync(FULL_MASK, y[threadIdx.x], 1);
  else __syncthreads();
}

KERNEL(64, planted_wrong_mask, float *y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_xor_sync(0xffff0000u, 1.f, 1);
}

KERNEL(64, planted_index, float *y) {
  SHARED(float, values, 64);
  values[threadIdx.x + 1] = 1.f;
  y[threadIdx.x] = 0.f;
}

KERNEL(64, planted_dynamic_index, float *y, int count) {
  DYNAMIC_SHARED(float, values);
  values[threadIdx.x] = static_cast<float>(count);
  y[threadIdx.x] = values[threadIdx.x];
}

KERNEL(64, planted_unwritten, float *y) {
  SHARED(float, values, 64);
  y[threadIdx.x] = values[threadIdx.x];
}

KERNEL(64, correct_warp_order, float *y) {
  SHARED(float, values, 64);
  const int neighbour = threadIdx.x ^ 1;
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncwarp();
  const float got = values[neighbour];
  __syncwarp();
  values[neighbour] = got + 100.f;
  __syncwarp();
  y[threadIdx.x] = values[threadIdx.x];
}

KERNEL(64, planted_warp_order, float *y) {
  SHARED(float, values, 64);
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  y[threadIdx.x] = values[threadIdx.x ^ 1];
}

KERNEL(256, correct_atomics, u32 *y) {
  SHARED(u32, count, 2);
  if (threadIdx.x < 2) count[threadIdx.x] = 0;
  __syncthreads();
  atomicAdd(SHARED_ADDRESS(count[threadIdx.x % 2]), 1u);
  __syncthreads();
  if (threadIdx.x < 2) atomicAdd(y + threadIdx.x, count[threadIdx.x]);
}

KERNEL(256, correct_early_return, float *y, int count) {
  if (threadIdx.x >= count) return;
  __syncthreads();
  y[threadIdx.x] = 1.f;
  __syncthreads();
}

KERNEL(64, correct_half_masks, int *y) {
  const int lane = threadIdx.x % WARP;
  int value;
  if (lane < 16) value = __shfl_xor_sync(0x0000ffffu, lane, 1);
  else value = __shfl_down_sync(0xffff0000u, lane, 1, 16);
  y[threadIdx.x] = value;
  if (__ballot_sync(FULL_MASK, lane & 1) != 0xaaaaaaaau || __any_sync(FULL_MASK, lane > 31) || !__all_sync(FULL_MASK, lane < 32)) y[threadIdx.x] = -1;
}

KERNEL(64, correct_votes, int *y) { y[threadIdx.x] = __syncthreads_count(threadIdx.x % 3 == 0); }

KERNEL(256, correct_halves, const bf16 *a, const f16 *b, f16 *as_half, bf16 *as_brain, i64 count) {
  const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  as_half[i] = from_f32<f16>(to_f32(a[i]));
  as_brain[i] = from_f32<bf16>(to_f32(b[i]));
}

KERNEL(32, planted_part_of_a_warp, float *y) {
  FragmentA<bf16> a = {};
  FragmentB<bf16> b = {};
  FragmentC c = {};
  if (threadIdx.x < 16) mma(c, a, b);
  y[threadIdx.x] = c.values[0];
}

KERNEL(32, planted_unaligned_copy, const bf16 *x, float *y) {
  SHARED(bf16, tile, 256);
  copy_async(tile + 4, x, 8);
  copies_wait<0>();
  y[threadIdx.x] = to_f32(tile[threadIdx.x]);
}

// Waits for all but the last group, and reads that one, too.
KERNEL(32, planted_early_read, const bf16 *x, float *y) {
  SHARED(bf16, tile, 512);
  for (int half = 0; half < 2; ++half) {
    copy_async(tile + 256 * half + 8 * threadIdx.x, x + 8 * threadIdx.x, 8);
    copies_commit();
  }
  copies_wait<1>();
  __syncthreads();
  y[threadIdx.x] = to_f32(tile[threadIdx.x]);
  y[32 + threadIdx.x] = to_f32(tile[256 + threadIdx.x]);
  copies_wait<0>();
}

KERNEL(32, planted_forgotten_copy, const bf16 *x, float *y) {
  SHARED(bf16, tile, 256);
  copy_async(tile + 8 * threadIdx.x, x, 8);
  copies_commit();
  y[threadIdx.x] = 0.f;
}

// y[16, 16] = a[16, 16] * b[16, 16] for each way in which the operands can lie: of the first `inner` values of k the tile has all,
// of the others none.
template <class T> __device__ void products(const T *a, const T *a_transposed, const T *b, const T *b_transposed, float *y, int inner) {
  SHARED(T, tiles, 4 * 16 * 24);
  const Rows rows{24};
  const int row = threadIdx.x / 2, column = threadIdx.x % 2 * 8;
  const int count = min(max(inner - column, 0), 8);
  const auto copy = [&](int tile, const T *from, int valid) { copy_async(tiles + tile * 16 * 24 + rows(row, column), from + row * 16 + column, valid); };
  copy(0, a, count);
  copy(1, a_transposed, row < inner ? 8 : 0);
  copies_commit();
  copy(2, b, row < inner ? 8 : 0);
  copy(3, b_transposed, count);
  copies_commit();
  copies_wait<0>();
  __syncthreads();
  for (int way = 0; way < 4; ++way) {
    const FragmentA<T> left = way % 2 ? load_left_transposed<T>(tiles + 16 * 24, rows) : load_left<T>(tiles + 0, rows);
    FragmentB<T> right[2];
    if (way / 2) load_right<T>(right, tiles + 3 * 16 * 24, rows);
    else load_right_transposed<T>(right, tiles + 2 * 16 * 24, rows);
    for (int half = 0; half < 2; ++half) {
      FragmentC c = {};
      mma(c, left, right[half]);
      for (int i = 0; i < 4; ++i) y[way * 256 + (threadIdx.x / 4 + i / 2 * 8) * 16 + half * 8 + threadIdx.x % 4 * 2 + i % 2] = c.values[i];
    }
  }
}

KERNEL(32, correct_products_bf16, const bf16 *a, const bf16 *a_transposed, const bf16 *b, const bf16 *b_transposed, float *y, int inner) {
  products<bf16>(a, a_transposed, b, b_transposed, y, inner);
}
KERNEL(32, correct_products_f16, const f16 *a, const f16 *a_transposed, const f16 *b, const f16 *b_transposed, float *y, int inner) {
  products<f16>(a, a_transposed, b, b_transposed, y, inner);
}

// y = (a * a) * a, the result of the first product being the left operand of the second.
KERNEL(32, correct_chained_products, const bf16 *a, float *y) {
  SHARED(bf16, tile, 16 * 24);
  const Rows rows{24};
  const int row = threadIdx.x / 2, column = threadIdx.x % 2 * 8;
  copy_async(tile + rows(row, column), a + row * 16 + column, 8);
  copies_commit();
  copies_wait<0>();
  __syncthreads();
  FragmentB<bf16> right[2];
  load_right_transposed<bf16>(right, tile + 0, rows);
  FragmentC square[2] = {};
  for (int half = 0; half < 2; ++half) mma(square[half], load_left<bf16>(tile + 0, rows), right[half]);
  for (int half = 0; half < 2; ++half) {
    FragmentC c = {};
    mma(c, as_left<bf16>(square[0], square[1]), right[half]);
    for (int i = 0; i < 4; ++i) y[(threadIdx.x / 4 + i / 2 * 8) * 16 + half * 8 + threadIdx.x % 4 * 2 + i % 2] = c.values[i];
  }
}
