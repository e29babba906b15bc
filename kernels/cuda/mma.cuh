// Products of small matrices on tensor cores, and the ways to feed them: for bf16 and f16 with sums in f32, on compute capability 8.0
// and later. PTX ISA, sections "mma.m16n8k16", "ldmatrix" and "cp.async", says which lane holds what.
//
// All lanes of a warp call these together. A tile is 16 x 16 or 16 x 8 values; of the lane L, let g = L / 4 and t = L % 4. Then
//   A (16 rows x 16 of k)     parts[0]: row g, k 2t and 2t+1; [1]: row g+8, the same k; [2]: row g, k+8; [3]: row g+8, k+8
//   B (16 of k x 8 columns)   parts[0]: k 2t and 2t+1, column g; [1]: k+8, column g
//   C (16 rows x 8 columns)   values[0], [1]: row g, columns 2t and 2t+1; [2], [3]: row g+8, the same columns
// where each part holds two values, the first in its lower half.
//
// How tensor cores add up the sixteen products of one instruction is theirs to choose. It is the same on every call, so results
// have the same bits on repeat, but not those of the plain form.
#pragma once
#include "common.cuh"

template <class T> struct FragmentA {
  u32 parts[4];
};
template <class T> struct FragmentB {
  u32 parts[2];
};
struct FragmentC {
  float values[4];
};

// Two values as one register, the first in the lower half.
template <class T> __device__ __forceinline__ u32 pack_pair(float first, float second);
template <class T> __device__ __forceinline__ float2 unpack_pair(u32 pair);

#ifdef GRISTMILL_SHIM
template <class T> inline u32 pack_pair(float first, float second) {
  return from_f32<T>(first).bits | static_cast<u32>(from_f32<T>(second).bits) << 16;
}
template <class T> inline float2 unpack_pair(u32 pair) {
  return {to_f32(T{static_cast<uint16_t>(pair & 0xffff)}), to_f32(T{static_cast<uint16_t>(pair >> 16)})};
}
#else
template <> __device__ __forceinline__ u32 pack_pair<bf16>(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const u32 *>(&pair);
}
template <> __device__ __forceinline__ u32 pack_pair<f16>(float first, float second) {
  const __half2 pair = __floats2half2_rn(first, second);
  return *reinterpret_cast<const u32 *>(&pair);
}
template <> __device__ __forceinline__ float2 unpack_pair<bf16>(u32 pair) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162 *>(&pair));
}
template <> __device__ __forceinline__ float2 unpack_pair<f16>(u32 pair) {
  return __half22float2(*reinterpret_cast<const __half2 *>(&pair));
}
#endif

// c += a * b.
template <class T> __device__ __forceinline__ void mma(FragmentC &c, const FragmentA<T> &a, const FragmentB<T> &b);

#ifdef GRISTMILL_SHIM
template <class T> inline void mma(FragmentC &c, const FragmentA<T> &a, const FragmentB<T> &b) {
  // All parts of all lanes: element (row, k) of A is in lane 4 * (row % 8) + k % 8 / 2, and (k, column) of B likewise.
  uint64_t low[32], high[32], right[32];
  const auto both = [](u32 first, u32 second) { return first | static_cast<uint64_t>(second) << 32; };
  gristmill_shim::meet_whole(both(a.parts[0], a.parts[1]), low);
  gristmill_shim::meet_whole(both(a.parts[2], a.parts[3]), high);
  gristmill_shim::meet_whole(both(b.parts[0], b.parts[1]), right);
  const int lane = gristmill_shim::lane(), g = lane / 4, t = lane % 4;
  const auto value = [](uint64_t parts, int which, int k) {
    const float2 pair = unpack_pair<T>(static_cast<u32>(parts >> 32 * which));
    return k % 2 ? pair.y : pair.x;
  };
  for (int i = 0; i < 4; ++i) {
    const int column = 2 * t + i % 2;
    for (int k = 0; k < 16; ++k) {
      const uint64_t left = (k < 8 ? low : high)[4 * g + k % 8 / 2];
      c.values[i] += value(left, i / 2, k) * value(right[4 * column + k % 8 / 2], k / 8, k);
    }
  }
}
#else
template <> __device__ __forceinline__ void mma<bf16>(FragmentC &c, const FragmentA<bf16> &a, const FragmentB<bf16> &b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
               : "+f"(c.values[0]), "+f"(c.values[1]), "+f"(c.values[2]), "+f"(c.values[3])
               : "r"(a.parts[0]), "r"(a.parts[1]), "r"(a.parts[2]), "r"(a.parts[3]), "r"(b.parts[0]), "r"(b.parts[1]));
}
template <> __device__ __forceinline__ void mma<f16>(FragmentC &c, const FragmentA<f16> &a, const FragmentB<f16> &b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
               : "+f"(c.values[0]), "+f"(c.values[1]), "+f"(c.values[2]), "+f"(c.values[3])
               : "r"(a.parts[0]), "r"(a.parts[1]), "r"(a.parts[2]), "r"(a.parts[3]), "r"(b.parts[0]), "r"(b.parts[1]));
}
#endif

// Two neighbouring tiles of a result, 16 x 16 in all, as the left operand of the next product.
template <class T> __device__ __forceinline__ FragmentA<T> as_left(const FragmentC &left, const FragmentC &right) {
  return {{pack_pair<T>(left.values[0], left.values[1]), pack_pair<T>(left.values[2], left.values[3]),
           pack_pair<T>(right.values[0], right.values[1]), pack_pair<T>(right.values[2], right.values[3])}};
}

// Where an element of a tile lies in shared memory: rows of `stride` elements. A stride that is 8 more than a multiple of 64 keeps
// the eight rows that are read at once in different banks. Any type with the same call operator does, a swizzled one too, as long as
// eight elements from a column that is a multiple of 8 on lie side by side, at a multiple of 16 bytes.
struct Rows {
  int stride;
  __device__ __forceinline__ int operator()(int row, int column) const { return row * stride + column; }
};

#ifdef GRISTMILL_SHIM
// One of the matrices of 8 x 8 that ldmatrix moves: two values of row g, or of column g where it is transposed.
template <class T, class At> inline u32 load_eight(SharedPtr<T> tile, At at, int row, int column, bool transposed) {
  const int g = gristmill_shim::lane() / 4, t = gristmill_shim::lane() % 4;
  const T first = transposed ? tile[at(row + 2 * t, column) + g] : tile[at(row + g, column) + 2 * t];
  const T second = transposed ? tile[at(row + 2 * t + 1, column) + g] : tile[at(row + g, column) + 2 * t + 1];
  return first.bits | static_cast<u32>(second.bits) << 16;
}
#else
template <bool TRANSPOSED, class T> __device__ __forceinline__ void load_four(u32 (&parts)[4], const T *row) {
  const u32 address = static_cast<u32>(__cvta_generic_to_shared(row));
  if constexpr (TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(parts[0]), "=r"(parts[1]), "=r"(parts[2]), "=r"(parts[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(parts[0]), "=r"(parts[1]), "=r"(parts[2]), "=r"(parts[3])
                 : "r"(address)
                 : "memory");
}
#endif

// Four matrices of 8 x 8 of which the second and the fourth, or the third and the fourth, lie 8 rows further down or 8 columns to
// the right: `ROWS_FIRST` says which comes first.
template <bool ROWS_FIRST, bool TRANSPOSED, class T, class At>
__device__ __forceinline__ void load_matrices(u32 (&parts)[4], SharedPtr<T> tile, At at) {
#ifdef GRISTMILL_SHIM
  uint64_t values[32];
  gristmill_shim::meet_whole(0, values);
  for (int i = 0; i < 4; ++i) {
    const int first = i % 2 * 8, second = i / 2 * 8;
    parts[i] = load_eight<T>(tile, at, ROWS_FIRST ? first : second, ROWS_FIRST ? second : first, TRANSPOSED);
  }
#else
  const int lane = (threadIdx.x + threadIdx.y * blockDim.x) % WARP, first = lane / 8 % 2 * 8, second = lane / 16 * 8;
  load_four<TRANSPOSED>(parts, tile + at((ROWS_FIRST ? first : second) + lane % 8, ROWS_FIRST ? second : first));
#endif
}

// A from a tile of 16 rows with 16 values of k side by side.
template <class T, class At> __device__ __forceinline__ FragmentA<T> load_left(SharedPtr<T> tile, At at) {
  FragmentA<T> a;
  load_matrices<true, false>(a.parts, tile, at);
  return a;
}

// A from the transposed tile: 16 rows of k with 16 rows of A side by side.
template <class T, class At> __device__ __forceinline__ FragmentA<T> load_left_transposed(SharedPtr<T> tile, At at) {
  FragmentA<T> a;
  load_matrices<false, true>(a.parts, tile, at);
  return a;
}

// B for 16 columns, as two fragments, from a tile of 16 columns with 16 values of k side by side: what x * w^T needs of w.
template <class T, class At> __device__ __forceinline__ void load_right(FragmentB<T> (&b)[2], SharedPtr<T> tile, At at) {
  u32 parts[4];
  load_matrices<false, false>(parts, tile, at);
  b[0] = {{parts[0], parts[1]}};
  b[1] = {{parts[2], parts[3]}};
}

// B for 16 columns, as two fragments, from a tile of 16 rows of k with 16 columns side by side: what x * w needs of w.
template <class T, class At> __device__ __forceinline__ void load_right_transposed(FragmentB<T> (&b)[2], SharedPtr<T> tile, At at) {
  u32 parts[4];
  load_matrices<true, true>(parts, tile, at);
  b[0] = {{parts[0], parts[1]}};
  b[1] = {{parts[2], parts[3]}};
}

// Copies 16 bytes to shared memory while the thread goes on, the first `valid` elements of them; the others become zero. Both
// addresses are multiples of 16 bytes, and `from` may be any such address where `valid` is 0. The thread that copied sees the
// values after copies_wait, the others after the barrier that follows it.
template <class T> __device__ __forceinline__ void copy_async(SharedPtr<T> to, const T *from, int valid) {
#ifdef GRISTMILL_SHIM
  gristmill_shim::copy_async(to.region(), to.address(), from, valid * static_cast<int>(sizeof(T)));
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(static_cast<u32>(__cvta_generic_to_shared(to))), "l"(from),
               "r"(valid * static_cast<int>(sizeof(T)))
               : "memory");
#endif
}

// Ends a group of copies: those that the thread began since the last.
__device__ __forceinline__ void copies_commit() {
#ifdef GRISTMILL_SHIM
  gristmill_shim::copies_commit();
#else
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Waits until at most the last `PENDING` groups of the thread are under way.
template <int PENDING> __device__ __forceinline__ void copies_wait() {
#ifdef GRISTMILL_SHIM
  gristmill_shim::copies_wait(PENDING);
#else
  asm volatile("cp.async.wait_group %0;\n" ::"n"(PENDING) : "memory");
#endif
}

// 2^x to about 2 units in the last place, subnormal results as zero: one instruction.
__device__ __forceinline__ float fast_exp2(float x) {
#ifdef GRISTMILL_SHIM
  return std::exp2(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
#endif
}
