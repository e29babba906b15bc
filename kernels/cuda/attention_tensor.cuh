// Attention of bf16 and f16 on tensor cores. A block has four warps; a warp owns 16 rows of a product, or twice 16.
#pragma once
#include "attention_common.cuh"

constexpr int TENSOR_THREADS = 128;

// Rows of shared memory: eight more elements than a head, which keeps rows that are read together in different banks.
template <int WIDE> constexpr int PITCH = WIDE + 8;

// Copies `ROWS` rows to shared memory, padded with zeros to WIDE elements; `row` gives each, or a null pointer for zeros. Ends
// with copies under way where addresses allow.
template <class T, int WIDE, int ROWS, class Row>
__device__ __forceinline__ void load_tile(SharedPtr<T> tile, const T *any, bool aligned, int width, Row row) {
  constexpr int CHUNKS = WIDE / 8;
  for (int chunk = threadIdx.x; chunk < ROWS * CHUNKS; chunk += TENSOR_THREADS) {
    const int number = chunk / CHUNKS, column = chunk % CHUNKS * 8;
    const T *const from = row(number);
    const int valid = from ? min(max(width - column, 0), 8) : 0;
    const SharedPtr<T> to = tile + (number * PITCH<WIDE> + column);
    if (aligned) {
      copy_async(to, valid ? from + column : any, valid);
    } else {
      for (int i = 0; i < 8; ++i) to[i] = i < valid ? from[column + i] : from_f32<T>(0.f);
    }
  }
}

// Two neighbours in memory as one register, zeros beyond the width.
template <class T> __device__ __forceinline__ u32 load_pair(const T *from, int column, int width, bool aligned) {
  if (aligned && column + 2 <= width) return *reinterpret_cast<const u32 *>(from + column);
  return pack_pair<T>(column < width ? to_f32(from[column]) : 0.f, column + 1 < width ? to_f32(from[column + 1]) : 0.f);
}
template <class T> __device__ __forceinline__ void store_pair(T *to, int column, int width, bool aligned, float first, float second) {
  if (aligned && column + 2 <= width) {
    *reinterpret_cast<u32 *>(to + column) = pack_pair<T>(first, second);
  } else {
    if (column < width) to[column] = from_f32<T>(first);
    if (column + 1 < width) to[column + 1] = from_f32<T>(second);
  }
}

// The number of a row in shared memory, from which a fragment begins.
template <int WIDE> __device__ __forceinline__ int at_row(int row, int column) { return row * PITCH<WIDE> + column; }

__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(FULL_MASK, value, 1));
  return fmaxf(value, __shfl_xor_sync(FULL_MASK, value, 2));
}
__device__ __forceinline__ float quad_sum(float value) {
  value += __shfl_xor_sync(FULL_MASK, value, 1);
  return value + __shfl_xor_sync(FULL_MASK, value, 2);
}

// A block has 64 * TILES lanes, a warp 16 * TILES of them. Keys come in tiles of STEP, of which the next is copied while one is
// worked on: shared memory holds two of keys and two of values.
template <class T, int WIDE, int TILES, int STEP>
__device__ __forceinline__ void tensor_forward(const Shape &shape, Heads<const T> q, Heads<const T> k, Heads<const T> v, Heads<T> o, float *log_sums) {
  constexpr int LANES = 64 * TILES, STAGE = 2 * STEP * PITCH<WIDE>;
  DYNAMIC_SHARED(T, shared);
  const Rows rows{PITCH<WIDE>};
  // The last lanes of a document see most keys under a causal mask, so they begin first.
  const Numbering numbering{shape.query_offsets, shape.query_rows, shape.documents, shape.group, LANES};
  const i64 number = static_cast<i64>(gridDim.x) - 1 - blockIdx.x;
  const int found = find_document(numbering, number), key_head = blockIdx.y;
  const Document document = document_at(shape, found);
  const int lanes = document.queries * shape.group;
  const i64 first_of_block = (number - numbering.first(found)) * LANES;
  if (first_of_block < 0 || first_of_block >= lanes) return;
  const int block_lane = static_cast<int>(first_of_block), block_last = min(block_lane + LANES, lanes) - 1;
  const int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
  const int first_lane = block_lane + warp * 16 * TILES;
  const bool works = first_lane < lanes;

  FragmentA<T> queries[TILES][WIDE / 16];
  int2 sights[TILES][2];
#pragma unroll
  for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int lane = first_lane + tile * 16 + half * 8 + g;
      sights[tile][half] = lane_sight(shape, document, lane);
      const Place at = place(shape, document, key_head, lane < lanes ? lane : block_lane);
      const T *const from = q.at(at.row, at.head);
      const int width = lane < lanes ? shape.width : 0;
      const bool aligned = q.aligned(4);
#pragma unroll
      for (int step = 0; step < WIDE / 16; ++step) {
        queries[tile][step].parts[half] = load_pair(from, step * 16 + 2 * t, width, aligned);
        queries[tile][step].parts[2 + half] = load_pair(from, step * 16 + 8 + 2 * t, width, aligned);
      }
    }
  }

  FragmentC sums[TILES][WIDE / 8] = {};
  float most[TILES][2], totals[TILES][2];
#pragma unroll
  for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      most[tile][half] = -infinity();
      totals[tile][half] = 0.f;
    }
  // Keys that all lanes of the warp see.
  const int2 first_sight = lane_sight(shape, document, first_lane), last_sight = lane_sight(shape, document, first_lane + 16 * TILES - 1);
  const int all_from = last_sight.x, all_to = first_lane + 16 * TILES <= lanes ? first_sight.y : 0;

  const int begin = lane_sight(shape, document, block_lane).x / STEP, end = (lane_sight(shape, document, block_last).y + STEP - 1) / STEP;
  const bool keys_aligned = k.aligned(16), values_aligned = v.aligned(16);
  const auto load = [&](int tile) {
    const SharedPtr<T> to = shared + tile % 2 * STAGE;
    load_tile<T, WIDE, STEP>(to, k.start, keys_aligned, shape.width, KeyRows<T>{k, document, key_head, tile * STEP});
    load_tile<T, WIDE, STEP>(to + STEP * PITCH<WIDE>, v.start, values_aligned, shape.width, KeyRows<T>{v, document, key_head, tile * STEP});
  };
  const float factor = shape.scale * LOG2_E;
  if (begin < end) load(begin);
  copies_commit();
  for (int block = begin; block < end; ++block) {
    if (block + 1 < end) load(block + 1);
    copies_commit();
    copies_wait<1>();
    __syncthreads();
    const SharedPtr<T> keys = shared + block % 2 * STAGE, values = keys + STEP * PITCH<WIDE>;
    const int first_key = block * STEP;
    if (works) {
      FragmentC scores[TILES][STEP / 8] = {};
#pragma unroll
      for (int step = 0; step < WIDE / 16; ++step)
#pragma unroll
        for (int column = 0; column < STEP / 16; ++column) {
          FragmentB<T> right[2];
          load_right<T>(right, keys + at_row<WIDE>(column * 16, step * 16), rows);
#pragma unroll
          for (int tile = 0; tile < TILES; ++tile) {
            mma(scores[tile][2 * column], queries[tile][step], right[0]);
            mma(scores[tile][2 * column + 1], queries[tile][step], right[1]);
          }
        }
      const bool all_seen = all_from <= first_key && first_key + STEP <= all_to;
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
        for (int column = 0; column < STEP / 8; ++column)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float &score = scores[tile][column].values[i];
            score *= factor;
            if (!all_seen && !sees(sights[tile][i / 2], first_key + column * 8 + 2 * t + i % 2)) score = -infinity();
          }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          // Values that are not numbers get lost in the maximum; the sum has them.
          float best = -infinity();
#pragma unroll
          for (int column = 0; column < STEP / 8; ++column)
            best = fmaxf(best, fmaxf(scores[tile][column].values[2 * half], scores[tile][column].values[2 * half + 1]));
          const float before = most[tile][half], now = fmaxf(before, quad_max(best));
          // A lane that saw nothing yet has weights of zero, and not those of minus infinity less itself.
          const float base = now == -infinity() ? 0.f : now;
          const float shrink = fast_exp2(before - base);
          float total = 0.f;
#pragma unroll
          for (int column = 0; column < STEP / 8; ++column)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; ++i) {
              const float weight = fast_exp2(scores[tile][column].values[i] - base);
              scores[tile][column].values[i] = weight;
              total += weight;
            }
          most[tile][half] = now;
          totals[tile][half] = totals[tile][half] * shrink + total;
#pragma unroll
          for (int column = 0; column < WIDE / 8; ++column) {
            sums[tile][column].values[2 * half] *= shrink;
            sums[tile][column].values[2 * half + 1] *= shrink;
          }
        }
      }
#pragma unroll
      for (int step = 0; step < STEP / 16; ++step) {
        FragmentA<T> weights[TILES];
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) weights[tile] = as_left<T>(scores[tile][2 * step], scores[tile][2 * step + 1]);
#pragma unroll
        for (int column = 0; column < WIDE / 16; ++column) {
          FragmentB<T> right[2];
          load_right_transposed<T>(right, values + at_row<WIDE>(step * 16, column * 16), rows);
#pragma unroll
          for (int tile = 0; tile < TILES; ++tile) {
            mma(sums[tile][2 * column], weights[tile], right[0]);
            mma(sums[tile][2 * column + 1], weights[tile], right[1]);
          }
        }
      }
    }
    // The tile after the next takes this one's place.
    __syncthreads();
  }
  if (!works) return;

#pragma unroll
  for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int lane = first_lane + tile * 16 + half * 8 + g;
      const float total = quad_sum(totals[tile][half]), inverse = total == 0.f ? 0.f : 1.f / total;
      if (lane >= lanes) continue;
      const Place at = place(shape, document, key_head, lane);
      T *const to = o.at(at.row, at.head);
      const bool aligned = o.aligned(4);
#pragma unroll
      for (int column = 0; column < WIDE / 8; ++column)
        store_pair(to, column * 8 + 2 * t, shape.width, aligned, sums[tile][column].values[2 * half] * inverse,
                   sums[tile][column].values[2 * half + 1] * inverse);
      if (log_sums && t == 0)
        log_sums[at.row * (static_cast<i64>(gridDim.y) * shape.group) + at.head] = total == 0.f ? -infinity() : most[tile][half] * LN_2 + logf(total);
    }
}

// The backward pass has two kernels of one form. A block owns 64 rows of two matrices, a warp 16 of them, and the other two come in
// tiles of STEP rows, of which the next is copied while one is worked on. Where lanes are owned, queries and gradients of
// results meet keys and values, and the result is the gradient of the queries; where keys are owned, it is the other way round.
constexpr int OWNED = 64;

template <int WIDE> constexpr int TENSOR_STEP = WIDE <= 64 ? 64 : WIDE <= 128 ? 32 : 16;
// Tiles in shared memory: of the widest heads there is room for one, within the 99 KiB of the smaller GPUs.
template <int WIDE> constexpr int TENSOR_STAGES = WIDE <= 128 ? 2 : 1;

// Waits for the tile `block`, and has the next copied meanwhile.
template <int STAGES, class Load> __device__ __forceinline__ void next_tile(int block, int end, Load load) {
  if constexpr (STAGES == 1) {
    load(block);
    copies_commit();
    copies_wait<0>();
  } else {
    if (block + 1 < end) load(block + 1);
    copies_commit();
    copies_wait<1>();
  }
}

// Products of a warp's rows of two matrices with those of a tile: scores, and gradients of weights.
template <class T, int WIDE, int STEP>
__device__ __forceinline__ void backward_products(FragmentC (&scores)[STEP / 8], FragmentC (&gradients)[STEP / 8], SharedPtr<T> owned, SharedPtr<T> other,
                                                  int row) {
  const Rows rows{PITCH<WIDE>};
#pragma unroll
  for (int step = 0; step < WIDE / 16; ++step) {
    const FragmentA<T> left = load_left<T>(owned + at_row<WIDE>(row, step * 16), rows);
    const FragmentA<T> left_gradient = load_left<T>(owned + at_row<WIDE>(OWNED + row, step * 16), rows);
#pragma unroll
    for (int column = 0; column < STEP / 16; ++column) {
      FragmentB<T> right[2];
      load_right<T>(right, other + at_row<WIDE>(column * 16, step * 16), rows);
      mma(scores[2 * column], left, right[0]);
      mma(scores[2 * column + 1], left, right[1]);
      load_right<T>(right, other + at_row<WIDE>(STEP + column * 16, step * 16), rows);
      mma(gradients[2 * column], left_gradient, right[0]);
      mma(gradients[2 * column + 1], left_gradient, right[1]);
    }
  }
}

// sums += factors * tile, with factors [16, STEP] and a tile [STEP, WIDE].
template <class T, int WIDE, int STEP>
__device__ __forceinline__ void accumulate(FragmentC (&sums)[WIDE / 8], const FragmentC (&factors)[STEP / 8], SharedPtr<T> tile) {
  const Rows rows{PITCH<WIDE>};
#pragma unroll
  for (int step = 0; step < STEP / 16; ++step) {
    const FragmentA<T> left = as_left<T>(factors[2 * step], factors[2 * step + 1]);
#pragma unroll
    for (int column = 0; column < WIDE / 16; ++column) {
      FragmentB<T> right[2];
      load_right_transposed<T>(right, tile + at_row<WIDE>(step * 16, column * 16), rows);
      mma(sums[2 * column], left, right[0]);
      mma(sums[2 * column + 1], left, right[1]);
    }
  }
}

// What is subtracted from a lane's scores in powers of two: of a lane that sees nothing, nothing.
__device__ __forceinline__ float base_of(float log_sum) { return log_sum == -infinity() ? 0.f : log_sum * LOG2_E; }

template <int WIDE, class T>
__device__ __forceinline__ void tensor_backward_queries(const Shape &shape, Heads<const T> q, Heads<const T> k, Heads<const T> v, Heads<const T> d_o,
                                                        const float *log_sums, const float *products, Heads<T> dq) {
  constexpr int STEP = TENSOR_STEP<WIDE>, STAGES = TENSOR_STAGES<WIDE>, STAGE = 2 * STEP * PITCH<WIDE>;
  DYNAMIC_SHARED(T, shared);
  const SharedPtr<T> stages = shared + 2 * OWNED * PITCH<WIDE>;
  const Numbering numbering{shape.query_offsets, shape.query_rows, shape.documents, shape.group, OWNED};
  const i64 number = static_cast<i64>(gridDim.x) - 1 - blockIdx.x;
  const int found = find_document(numbering, number), key_head = blockIdx.y;
  const Document document = document_at(shape, found);
  const int lanes = document.queries * shape.group;
  const i64 first_of_block = (number - numbering.first(found)) * OWNED;
  if (first_of_block < 0 || first_of_block >= lanes) return;
  const int block_lane = static_cast<int>(first_of_block), block_last = min(block_lane + OWNED, lanes) - 1;
  const int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
  const int first_lane = block_lane + warp * 16;
  const bool works = first_lane < lanes;

  load_tile<T, WIDE, OWNED>(shared + 0, q.start, q.aligned(16), shape.width, LaneRows<T>{q, shape, document, key_head, block_lane});
  load_tile<T, WIDE, OWNED>(shared + OWNED * PITCH<WIDE>, d_o.start, d_o.aligned(16), shape.width, LaneRows<T>{d_o, shape, document, key_head, block_lane});
  const bool keys_aligned = k.aligned(16), values_aligned = v.aligned(16);
  const auto load = [&](int tile) {
    const SharedPtr<T> to = stages + tile % STAGES * STAGE;
    load_tile<T, WIDE, STEP>(to, k.start, keys_aligned, shape.width, KeyRows<T>{k, document, key_head, tile * STEP});
    load_tile<T, WIDE, STEP>(to + STEP * PITCH<WIDE>, v.start, values_aligned, shape.width, KeyRows<T>{v, document, key_head, tile * STEP});
  };

  int2 sights[2];
  float bases[2], sums_of_products[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int lane = first_lane + half * 8 + g;
    sights[half] = lane_sight(shape, document, lane);
    bases[half] = sums_of_products[half] = 0.f;
    if (lane < lanes) {
      const Place at = place(shape, document, key_head, lane);
      const i64 index = at.row * (static_cast<i64>(gridDim.y) * shape.group) + at.head;
      bases[half] = base_of(log_sums[index]);
      sums_of_products[half] = products[index];
    }
  }
  FragmentC sums[WIDE / 8] = {};
  const int begin = lane_sight(shape, document, block_lane).x / STEP, end = (lane_sight(shape, document, block_last).y + STEP - 1) / STEP;
  const float factor = shape.scale * LOG2_E;
  if (STAGES > 1 && begin < end) load(begin);
  copies_commit();
  for (int block = begin; block < end; ++block) {
    next_tile<STAGES>(block, end, load);
    __syncthreads();
    const SharedPtr<T> keys = stages + block % STAGES * STAGE;
    if (works) {
      FragmentC scores[STEP / 8] = {}, gradients[STEP / 8] = {};
      backward_products<T, WIDE, STEP>(scores, gradients, shared + 0, keys, warp * 16);
#pragma unroll
      for (int column = 0; column < STEP / 8; ++column)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float weight = fast_exp2(scores[column].values[i] * factor - bases[i / 2]);
          const float difference = weight * (gradients[column].values[i] - sums_of_products[i / 2]);
          gradients[column].values[i] = sees(sights[i / 2], block * STEP + column * 8 + 2 * t + i % 2) ? difference : 0.f;
        }
      accumulate<T, WIDE, STEP>(sums, gradients, keys);
    }
    // The tile after the next takes this one's place.
    __syncthreads();
  }
  copies_wait<0>();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int lane = first_lane + half * 8 + g;
    if (lane >= lanes) continue;
    const Place at = place(shape, document, key_head, lane);
    T *const to = dq.at(at.row, at.head);
    const bool aligned = dq.aligned(4);
#pragma unroll
    for (int column = 0; column < WIDE / 8; ++column)
      store_pair(to, column * 8 + 2 * t, shape.width, aligned, sums[column].values[2 * half] * shape.scale,
                 sums[column].values[2 * half + 1] * shape.scale);
  }
}

// Sums for keys and for values take as many registers as two heads have elements. Heads wider than 128 therefore take two
// passes, each for one of them.
template <int WIDE, class T>
__device__ __forceinline__ void tensor_backward_keys(const Shape &shape, Heads<const T> q, Heads<const T> k, Heads<const T> v, Heads<const T> d_o,
                                                     const float *log_sums, const float *products, Heads<T> dk, Heads<T> dv) {
  constexpr int STEP = TENSOR_STEP<WIDE>, STAGES = TENSOR_STAGES<WIDE>, STAGE = 2 * STEP * PITCH<WIDE>;
  constexpr bool TWO_PASSES = WIDE > 128;
  DYNAMIC_SHARED(T, shared);
  // Of each lane of the tiles: what is subtracted from scores and from gradients, and the first key that it sees and the first
  // that it does not see any more.
  SHARED(float, lane_bases, STAGES * STEP);
  SHARED(float, lane_products, STAGES * STEP);
  SHARED(int, lane_starts, STAGES * STEP);
  SHARED(int, lane_ends, STAGES * STEP);
  const SharedPtr<T> stages = shared + 2 * OWNED * PITCH<WIDE>;
  const Numbering numbering{shape.key_offsets, shape.key_rows, shape.documents, 1, OWNED};
  const i64 number = blockIdx.x;
  const int found = find_document(numbering, number), key_head = blockIdx.y;
  const Document document = document_at(shape, found);
  const int lanes = document.queries * shape.group;
  const i64 first_of_block = (number - numbering.first(found)) * OWNED;
  if (first_of_block < 0 || first_of_block >= document.keys) return;
  const int block_key = static_cast<int>(first_of_block);
  const int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
  const int first_key = block_key + warp * 16;
  const bool works = first_key < document.keys;

  load_tile<T, WIDE, OWNED>(shared + 0, k.start, k.aligned(16), shape.width, KeyRows<T>{k, document, key_head, block_key});
  load_tile<T, WIDE, OWNED>(shared + OWNED * PITCH<WIDE>, v.start, v.aligned(16), shape.width, KeyRows<T>{v, document, key_head, block_key});
  const bool queries_aligned = q.aligned(16), gradients_aligned = d_o.aligned(16);
  const auto load = [&](int tile) {
    const SharedPtr<T> to = stages + tile % STAGES * STAGE;
    load_tile<T, WIDE, STEP>(to, q.start, queries_aligned, shape.width, LaneRows<T>{q, shape, document, key_head, tile * STEP});
    load_tile<T, WIDE, STEP>(to + STEP * PITCH<WIDE>, d_o.start, gradients_aligned, shape.width, LaneRows<T>{d_o, shape, document, key_head, tile * STEP});
    if (threadIdx.x < STEP) {
      const int lane = tile * STEP + threadIdx.x, slot = tile % STAGES * STEP + threadIdx.x;
      const int2 sight = lane_sight(shape, document, lane);
      lane_starts[slot] = sight.x;
      lane_ends[slot] = sight.y;
      const Place at = place(shape, document, key_head, lane < lanes ? lane : 0);
      const i64 index = at.row * (static_cast<i64>(gridDim.y) * shape.group) + at.head;
      lane_bases[slot] = lane < lanes ? base_of(log_sums[index]) : 0.f;
      lane_products[slot] = lane < lanes ? products[index] : 0.f;
    }
  };

  const int2 queries = watchers(shape, document, block_key, min(block_key + OWNED, document.keys));
  const int begin = queries.x * shape.group / STEP, end = queries.y > queries.x ? (queries.y * shape.group + STEP - 1) / STEP : begin;
  const float factor = shape.scale * LOG2_E;
#pragma unroll 1
  for (int pass = 0; pass < (TWO_PASSES ? 2 : 1); ++pass) {
    const bool for_keys = pass == 0;
    // With two passes these are the sums of either.
    FragmentC key_sums[WIDE / 8] = {}, value_sums[TWO_PASSES ? 1 : WIDE / 8] = {};
    if (STAGES > 1 && begin < end) load(begin);
    copies_commit();
    for (int block = begin; block < end; ++block) {
      next_tile<STAGES>(block, end, load);
      __syncthreads();
      const SharedPtr<T> tile = stages + block % STAGES * STAGE;
      const int of_tile = block % STAGES * STEP;
      if (works) {
        FragmentC scores[STEP / 8] = {}, gradients[STEP / 8] = {};
        backward_products<T, WIDE, STEP>(scores, gradients, shared + 0, tile, warp * 16);
#pragma unroll
        for (int column = 0; column < STEP / 8; ++column)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int lane = column * 8 + 2 * t + i;
            const int2 sight = make_int2(lane_starts[of_tile + lane], lane_ends[of_tile + lane]);
            const float base = lane_bases[of_tile + lane], product = lane_products[of_tile + lane];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              const bool seen = sees(sight, first_key + half * 8 + g);
              const float weight = fast_exp2(scores[column].values[2 * half + i] * factor - base);
              const float difference = weight * (gradients[column].values[2 * half + i] - product);
              scores[column].values[2 * half + i] = seen ? weight : 0.f;
              gradients[column].values[2 * half + i] = seen ? difference : 0.f;
            }
          }
        if constexpr (TWO_PASSES) {
          if (for_keys) accumulate<T, WIDE, STEP>(key_sums, gradients, tile);
          else accumulate<T, WIDE, STEP>(key_sums, scores, tile + STEP * PITCH<WIDE>);
        } else {
          accumulate<T, WIDE, STEP>(value_sums, scores, tile + STEP * PITCH<WIDE>);
          accumulate<T, WIDE, STEP>(key_sums, gradients, tile);
        }
      }
      // The tile after the next takes this one's place.
      __syncthreads();
    }
    copies_wait<0>();
    const auto store = [&](const Heads<T> &results, const FragmentC *sums, float scale) {
      const bool aligned = results.aligned(4);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int key = first_key + half * 8 + g;
        if (key >= document.keys) continue;
        T *const to = results.at(document.key_start + key, key_head);
#pragma unroll
        for (int column = 0; column < WIDE / 8; ++column)
          store_pair(to, column * 8 + 2 * t, shape.width, aligned, sums[column].values[2 * half] * scale, sums[column].values[2 * half + 1] * scale);
      }
    };
    if constexpr (TWO_PASSES) {
      if (for_keys) store(dk, key_sums, shape.scale);
      else store(dv, key_sums, 1.f);
    } else {
      store(dk, key_sums, shape.scale);
      store(dv, value_sums, 1.f);
    }
  }
}
