// Kernels with planted mistakes, and kernels that do unusual things rightly: the shim's own tests.
#include "common.cuh"

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
