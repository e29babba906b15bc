// Many byte patterns in many texts that lie one behind another: values and offsets, as Arrow has its strings.
//
// The bytes are divided into tiles without regard to texts, so that one text of a gigabyte and millions of short ones are the same
// work. A warp has a tile, a lane a strip of 64 bytes in it. Every position is asked one question, by one access to a filter in shared
// memory: can the four bytes here be the window by which some pattern is known? Where the answer is "perhaps", a hash table leads
// from the window to patterns, and their bytes are compared. Only an occurrence asks for the text that it lies in. src/scan/table.rs
// makes the tables and says how they lie in memory.
//
// What is found by which lane follows from the position alone. Counts are sums, sets do not depend on the order of insertion, and
// a list is written to places that come from sums of counts: nothing depends on the order in which lanes come.
#include "common.cuh"

namespace {

using u8 = unsigned char;

// Bytes of a tile and of a strip, and tiles that a block has at a time.
constexpr int TILE = 2048, STRIP = TILE / WARP, TILES = 8;
// Bit 5 of each byte, which tells upper from lower case.
constexpr u32 CASE = 0x20202020u;
// Odd multipliers, for places and for bits in them.
constexpr u32 HASH = 0x9e3779b1u, BITS = 0x85ebca6bu;
// Words of the table of pairs of bytes.
constexpr int PAIRS = 2048;
// A slot without a pattern.
constexpr u32 EMPTY = 0xffffffffu;
// Patterns of these lengths and more have a window of four bytes; shorter ones are their own.
constexpr int WINDOW = 4;
// Bits of `widths`, which has bit w if a window has w bytes: those that the filter knows, and those that the table of pairs knows.
constexpr int LONG = 24, SHORT = 6;

struct Table {
  const u32 *entries, *heads, *members;
  const u8 *bytes;
  int filter_bits, head_bits, widths;
  bool fold;
};

template <class T> struct Texts {
  const u8 *values;
  const T *offsets;
  // For each tile, and for the one behind the last, the text that has its first byte.
  const u32 *map;
  // Bytes of `values`; tiles; where the first text begins and the last one ends.
  i64 bytes, tiles, first, last;
};

// Offsets that point outside of the values are moved to their ends.
template <class T> __device__ __forceinline__ Texts<T> texts_of(const u8 *values, i64 bytes, const T *offsets, i64 count, const u32 *map, i64 tiles) {
  i64 first = offsets[0], last = offsets[count];
  first = first < 0 ? 0 : first > bytes ? bytes : first;
  last = last < first ? first : last > bytes ? bytes : last;
  return {values, offsets, map, bytes, tiles, first, last};
}

// Tiles begin where an access to 16 bytes may: so many bytes before the values.
__device__ __forceinline__ int skew_of(const u8 *values) { return static_cast<int>(reinterpret_cast<u64>(values) & 15); }

__device__ __forceinline__ int lowest(u64 marks) {
  const u32 low = static_cast<u32>(marks);
  return low ? __ffs(static_cast<int>(low)) - 1 : 31 + __ffs(static_cast<int>(marks >> 32));
}

__device__ __forceinline__ u32 lower(u32 byte) { return byte - 'A' < 26u ? byte | 32u : byte; }

// The last text that begins at or before the position, which is the one that has it. Of texts without bytes none has it.
template <class T> __device__ __forceinline__ u32 text_at(const T *offsets, u32 low, u32 high, i64 position) {
  while (low < high) {
    const u32 middle = (low + high + 1) >> 1;
    if (offsets[middle] <= position) low = middle;
    else high = middle - 1;
  }
  return low;
}

// The character of so many bytes, at most four, or -1 if they are not the UTF-8 of one character.
__device__ __forceinline__ int decode(const u8 *at, int length) {
  const u32 lead = at[0], second = length > 1 ? at[1] : 0u;
  if (length == 1) return lead < 0x80u ? static_cast<int>(lead) : -1;
  for (int i = 1; i < length; ++i)
    if ((at[i] & 0xc0u) != 0x80u) return -1;
  if (length == 2) return lead >= 0xc2u && lead <= 0xdfu ? static_cast<int>((lead & 31u) << 6 | (second & 63u)) : -1;
  if (length == 3) {
    // Neither longer than needed nor one of a pair of surrogates.
    if ((lead & 0xf0u) != 0xe0u || (lead == 0xe0u && second < 0xa0u) || (lead == 0xedu && second > 0x9fu)) return -1;
    return static_cast<int>((lead & 15u) << 12 | (second & 63u) << 6 | (at[2] & 63u));
  }
  if (lead < 0xf0u || lead > 0xf4u || (lead == 0xf0u && second < 0x90u) || (lead == 0xf4u && second > 0x8fu)) return -1;
  return static_cast<int>((lead & 7u) << 18 | (second & 63u) << 12 | (at[2] & 63u) << 6 | (at[3] & 63u));
}

__device__ __forceinline__ bool is_member(const u32 *members, int character) {
  return character >= 0 && (members[character >> 5] >> (character & 31) & 1u);
}

// Whether no member stands right before `start` or right behind `end` in the text from `low` to `high`.
template <class T> __device__ __forceinline__ bool isolated(const u32 *members, const Texts<T> &texts, i64 low, i64 start, i64 end, i64 high) {
  const u8 *const values = texts.values;
  low = low > texts.first ? low : texts.first;
  high = high < texts.last ? high : texts.last;
  if (start > low) {
    int length = 1;
    if (values[start - 1] >= 0x80u) {
      length = 2;
      while (length <= 4 && start - length >= low && (values[start - length] & 0xc0u) == 0x80u) ++length;
    }
    if (length <= 4 && start - length >= low && is_member(members, decode(values + start - length, length))) return false;
  }
  if (end < high) {
    const u32 lead = values[end];
    const int length = lead < 0x80u ? 1 : lead < 0xe0u ? 2 : lead < 0xf0u ? 3 : 4;
    if (end + length <= high && is_member(members, decode(values + end, length))) return false;
  }
  return true;
}

// Hands the patterns to `sink` that are known by the `width` bytes at a position.
template <class T, class Sink>
__device__ __forceinline__ void look_up(const Table &table, const Texts<T> &texts, i64 tile, i64 position, int width, Sink &sink) {
  if (position + width > texts.last) return;
  u32 key = 0, hashed = 0;
  for (int i = 0; i < width; ++i) {
    const u32 byte = texts.values[position + i];
    key |= (table.fold ? lower(byte) : byte) << (8 * i);
    hashed |= (byte | 32u) << (8 * i);
  }
  const u32 bucket = hashed * HASH >> (32 - table.head_bits);
  const u32 end_of_bucket = table.heads[bucket + 1];
  for (u32 number = table.heads[bucket]; number < end_of_bucket; ++number) {
    const u32 *const entry = table.entries + 4 * static_cast<i64>(number);
    if (entry[0] != key) continue;
    const u32 pattern = entry[1], shape = entry[3];
    const int length = static_cast<int>(shape >> 8), offset = static_cast<int>(shape & 255u);
    if ((length < WINDOW ? length : WINDOW) != width) continue;
    const i64 start = position - offset, end = start + length;
    if (start < texts.first || end > texts.last) continue;
    const u8 *const bytes = table.bytes + entry[2];
    bool same = true;
#pragma unroll 1
    for (int i = 0; i < length && same; ++i) {
      const u32 byte = texts.values[start + i];
      same = (table.fold ? lower(byte) : byte) == bytes[i];
    }
    if (!same) continue;
    const u32 text = text_at(texts.offsets, texts.map[tile], texts.map[tile + 1], position);
    const i64 low = texts.offsets[text], high = texts.offsets[text + 1];
    if (start < low || end > high) continue;
    if (table.members && !isolated(table.members, texts, low, start, end, high)) continue;
    sink.found(text, pattern, position, offset);
  }
}

// Sixteen bytes, zeros outside of the values, with bit 5 set in all of them.
__device__ __forceinline__ uint4 load_sixteen(const u8 *values, i64 bytes, i64 start) {
  if (start >= 0 && start + 16 <= bytes) {
    const uint4 words = *reinterpret_cast<const uint4 *>(values + start);
    return make_uint4(words.x | CASE, words.y | CASE, words.z | CASE, words.w | CASE);
  }
  uint4 words = make_uint4(CASE, CASE, CASE, CASE);
#pragma unroll 1
  for (int i = 15; i >= 0; --i) {
    const u32 byte = start + i >= 0 && start + i < bytes ? values[start + i] | 32u : 32u;
    words.w = words.w << 8 | words.z >> 24;
    words.z = words.z << 8 | words.y >> 24;
    words.y = words.y << 8 | words.x >> 24;
    words.x = words.x << 8 | byte;
  }
  return words;
}

// The four bytes at a position among sixteen, or where the last of them are in the sixteen behind.
__device__ __forceinline__ u32 window_at(const u32 (&words)[5], int at) {
  const int within = 8 * (at % 4);
  return within == 0 ? words[at / 4] : words[at / 4] >> within | words[at / 4 + 1] << (32 - within);
}

// Goes through the strip that the lane has in a tile.
template <class T, class Sink>
__device__ __forceinline__ void walk(const Table &table, const Texts<T> &texts, SharedPtr<u32> filter, i64 tile, Sink &sink) {
  const i64 start = tile * TILE + static_cast<i64>(threadIdx.x % WARP) * STRIP - skew_of(texts.values);
  if (start + STRIP <= texts.first || start >= texts.last) return;
  if (sink.has_enough(texts.map + tile)) return;

  // Positions at which a pattern may be known: by a window of three or four bytes, and by one or two bytes.
  u64 windows = 0, pairs = 0;
  const int shift = 32 - table.filter_bits;
  const SharedPtr<u32> table_of_pairs = filter + (1 << table.filter_bits);
  // The next sixteen bytes are asked for before those at hand are looked at.
  uint4 ahead = load_sixteen(texts.values, texts.bytes, start);
#pragma unroll 1
  for (int done = 0; done < STRIP; done += 16) {
    const uint4 now = ahead;
    ahead = load_sixteen(texts.values, texts.bytes, start + done + 16);
    const u32 words[5] = {now.x, now.y, now.z, now.w, ahead.x};
    u32 marks = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const u32 window = window_at(words, i);
      // Three bytes choose the word, all four two bits of it: a window of three bytes has all bits.
      const u32 word = filter[(window * (HASH << 8)) >> shift], bits = window * BITS;
      marks |= (word >> (bits >> 27) & word >> (bits >> 22 & 31u) & 1u) << i;
    }
    windows |= static_cast<u64>(marks) << done;
    if (!(table.widths & SHORT)) continue;
    marks = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const u32 pair = window_at(words, i);
      marks |= (table_of_pairs[pair >> 5 & 2047u] >> (pair & 31u) & 1u) << i;
    }
    pairs |= static_cast<u64>(marks) << done;
  }

  u64 inside = ~0ull;
  if (start < texts.first) inside <<= texts.first - start;
  if (texts.last - start < STRIP) inside &= (1ull << (texts.last - start)) - 1ull;
#pragma unroll 1
  for (u64 left = (windows | pairs) & inside; left; left &= left - 1) {
    const int at = lowest(left);
    const int widths = table.widths & ((windows >> at & 1 ? LONG : 0) | (pairs >> at & 1 ? SHORT : 0));
#pragma unroll 1
    for (int width = WINDOW; width > 0; --width)
      if (widths >> width & 1) look_up(table, texts, tile, start + at, width, sink);
  }
}

// All threads of the block must call it.
__device__ __forceinline__ void load_filter(const u32 *words, int count, SharedPtr<u32> filter) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) filter[i] = words[i];
  __syncthreads();
}

// How many distinct patterns a text has, up to a limit. A text has as many slots as the limit; each holds another pattern, and they
// are filled from the first one on. Which patterns come first is chance; how many there are is not.
struct Distinct {
  u32 *slots;
  u32 limit;

  // A tile that lies in one text need not be looked at once the text has all it can have.
  __device__ __forceinline__ bool has_enough(const u32 *map) const {
    const u32 text = map[0];
    return text == map[1] && *static_cast<volatile u32 *>(slots + (text + 1ll) * limit - 1) != EMPTY;
  }
  __device__ __forceinline__ void found(u32 text, u32 pattern, i64, int) const {
    u32 *const own = slots + static_cast<i64>(text) * limit;
    for (u32 i = 0; i < limit; ++i) {
      // What is read may be old, but a slot that was filled stays as it is.
      u32 there = *static_cast<volatile u32 *>(own + i);
      if (there == EMPTY) there = atomicCAS(own + i, EMPTY, pattern);
      if (there == EMPTY || there == pattern) return;
    }
  }
};

struct Count {
  u32 count;

  __device__ __forceinline__ bool has_enough(const u32 *) const { return false; }
  __device__ __forceinline__ void found(u32, u32, i64, int) { ++count; }
};

// Occurrences of a tile in the order of their windows, each as the window's position and as pattern << 32 | offset of the window.
// What there is no room for is only counted.
struct Write {
  i64 *found_at;
  u32 place, room;

  __device__ __forceinline__ bool has_enough(const u32 *) const { return false; }
  __device__ __forceinline__ void found(u32, u32 pattern, i64 position, int offset) {
    if (place < room) {
      found_at[2ll * place] = position;
      found_at[2ll * place + 1] = static_cast<i64>(pattern) << 32 | offset;
    }
    ++place;
  }
};

// The sum of a value over the block, in every thread. `scratch` has a place for each warp. All threads must call it.
__device__ __forceinline__ i64 block_sum(i64 value, SharedPtr<i64> scratch) {
#pragma unroll
  for (int offset = WARP / 2; offset > 0; offset >>= 1) value += __shfl_xor_sync(FULL_MASK, value, offset);
  if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = value;
  __syncthreads();
  i64 sum = 0;
  for (int i = 0; i < blockDim.x / WARP; ++i) sum += scratch[i];
  // The next use of `scratch` must not overtake the reads of this one.
  __syncthreads();
  return sum;
}

// The sum over the lanes before this one.
template <class V> __device__ __forceinline__ V sum_before(V value) {
  const int lane = threadIdx.x % WARP;
  V sum = value;
#pragma unroll
  for (int by = 1; by < WARP; by <<= 1) {
    const V other = __shfl_up_sync(FULL_MASK, sum, by);
    if (lane >= by) sum += other;
  }
  return sum - value;
}

// The tiles of a block: each warp has one, and then one so many further on.
__device__ __forceinline__ i64 first_tile() { return static_cast<i64>(blockIdx.x) * TILES + threadIdx.x / WARP; }
__device__ __forceinline__ i64 tiles_on() { return static_cast<i64>(gridDim.x) * TILES; }

template <class T> __device__ __forceinline__ void count_distinct(const Table &table, const Texts<T> &texts, SharedPtr<u32> filter, Distinct sink) {
  for (i64 tile = first_tile(); tile < texts.tiles; tile += tiles_on()) walk(table, texts, filter, tile, sink);
}

template <class T> __device__ __forceinline__ void count_all(const Table &table, const Texts<T> &texts, SharedPtr<u32> filter, i64 *counts) {
  for (i64 tile = first_tile(); tile < texts.tiles; tile += tiles_on()) {
    Count sink = {0};
    walk(table, texts, filter, tile, sink);
    u32 sum = sink.count;
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset >>= 1) sum += __shfl_xor_sync(FULL_MASK, sum, offset);
    if (threadIdx.x % WARP == 0) counts[tile] = sum;
  }
}

template <class T>
__device__ __forceinline__ void write_all(const Table &table, const Texts<T> &texts, SharedPtr<u32> filter, const i64 *places, i64 *found_at, i64 capacity) {
  for (i64 tile = first_tile(); tile < texts.tiles; tile += tiles_on()) {
    const i64 place = places[tile];
    if (place == places[tile + 1] || place >= capacity) continue;
    // How many there are before those of this lane is known only when all lanes have counted.
    Write sink = {found_at + 2 * place, 0, 0};
#pragma unroll 1
    for (int pass = 0; pass < 2; ++pass) {
      walk(table, texts, filter, tile, sink);
      sink.place = sum_before(sink.place);
      sink.room = static_cast<u32>(capacity - place < FULL_MASK ? capacity - place : FULL_MASK);
    }
  }
}

// Puts occurrences in order of texts, starts and patterns. They are in the order of their windows, and no window begins more than
// `reach` bytes behind its pattern, so only those nearby can have to change places: each counts them, and knows its place.
template <class T>
__device__ __forceinline__ void order(const u8 *values, const T *offsets, const u32 *map, const i64 *found_at, i64 count, u32 *documents, u32 *patterns,
                                      i64 *starts, int reach) {
  const i64 own = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (own >= count) return;
  const i64 window = found_at[2 * own], code = found_at[2 * own + 1], start = window - (code & 255);
  i64 place = own;
  for (i64 i = own - 1; i >= 0 && found_at[2 * i] >= start; --i) {
    const i64 other = found_at[2 * i + 1], begin = found_at[2 * i] - (other & 255);
    if (begin > start || (begin == start && other >> 32 > code >> 32)) --place;
  }
  for (i64 i = own + 1; i < count && found_at[2 * i] <= start + reach; ++i) {
    const i64 other = found_at[2 * i + 1], begin = found_at[2 * i] - (other & 255);
    if (begin < start || (begin == start && other >> 32 < code >> 32)) ++place;
  }
  const i64 tile = (window + skew_of(values)) / TILE;
  const u32 text = text_at(offsets, map[tile], map[tile + 1], window);
  documents[place] = text;
  patterns[place] = static_cast<u32>(code >> 32);
  starts[place] = start - offsets[text];
}

// Counts of a block of scan_sums and scan_places.
constexpr int CHUNK = 1024;

}  // namespace

KERNEL(256, scan_fill, u32 *to, i64 count, u32 value) {
  const i64 step = static_cast<i64>(gridDim.x) * blockDim.x;
  for (i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) to[i] = value;
}

// Leaves the slots as they were before.
KERNEL(256, scan_tally, u32 *slots, u32 *distinct, i64 count, u32 limit) {
  const i64 text = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (text >= count) return;
  u32 *const own = slots + text * static_cast<i64>(limit);
  u32 filled = 0;
  while (filled < limit && own[filled] != EMPTY) own[filled++] = EMPTY;
  distinct[text] = filled;
}

// The sum of each chunk of counts.
KERNEL(256, scan_sums, const i64 *counts, i64 *sums, i64 count) {
  SHARED(i64, scratch, 8);
  const i64 first = static_cast<i64>(blockIdx.x) * CHUNK, last = first + CHUNK < count ? first + CHUNK : count;
  i64 sum = 0;
  for (i64 i = first + threadIdx.x; i < last; i += blockDim.x) sum += counts[i];
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Puts the sum of what is before into the place of each count, and the sum of all into `total` and behind the counts.
KERNEL(256, scan_places, i64 *counts, const i64 *sums, i64 *total, i64 count) {
  SHARED(i64, scratch, 8);
  i64 before = 0;
  for (int i = threadIdx.x; i < blockIdx.x; i += blockDim.x) before += sums[i];
  before = block_sum(before, scratch);
  const i64 first = static_cast<i64>(blockIdx.x) * CHUNK, last = first + CHUNK < count ? first + CHUNK : count;
  for (i64 base = first; base < last; base += blockDim.x) {
    const i64 at = base + threadIdx.x;
    const i64 value = at < last ? counts[at] : 0;
    const i64 in_warp = sum_before(value);
    if (threadIdx.x % WARP == WARP - 1) scratch[threadIdx.x / WARP] = in_warp + value;
    __syncthreads();
    i64 earlier = 0, all = 0;
    for (int i = 0; i < blockDim.x / WARP; ++i) {
      const i64 sum = scratch[i];
      if (i < threadIdx.x / WARP) earlier += sum;
      all += sum;
    }
    // The next round must not overtake the reads of this one.
    __syncthreads();
    if (at < last) counts[at] = before + earlier + in_warp;
    before += all;
  }
  if (last == count && threadIdx.x == 0) {
    counts[count] = before;
    *total = before;
  }
}

#define PARAMETERS(T)                                                                                                            \
  const u32 *words, int filter_bits, const u32 *entries, const u32 *heads, int head_bits, const u8 *bytes, const u32 *members,   \
      int widths, int fold, const u8 *values, i64 length, const T *offsets, i64 count, const u32 *map, i64 tiles

#define BEGIN(T)                                                                                                                 \
  DYNAMIC_SHARED(u32, filter);                                                                                                   \
  const Table table = {entries, heads, members, bytes, filter_bits, head_bits, widths, fold != 0};                               \
  const Texts<T> texts = texts_of(values, length, offsets, count, map, tiles);                                                   \
  load_filter(words, (1 << filter_bits) + ((widths & SHORT) ? PAIRS : 0), filter)

#define SCAN(suffix, T)                                                                                                          \
  KERNEL(256, scan_map_##suffix, const u8 *values, const T *offsets, i64 count, u32 *map, i64 tiles) {                           \
    const i64 tile = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;                                                    \
    if (tile <= tiles) map[tile] = text_at(offsets, 0u, static_cast<u32>(count - 1), tile * TILE - skew_of(values));              \
  }                                                                                                                              \
  KERNEL_BLOCKS(256, 5, scan_distinct_##suffix, PARAMETERS(T), u32 *slots, u32 limit) {                                          \
    BEGIN(T);                                                                                                                    \
    count_distinct(table, texts, filter, {slots, limit});                                                                        \
  }                                                                                                                              \
  KERNEL_BLOCKS(256, 5, scan_count_##suffix, PARAMETERS(T), i64 *counts) {                                                       \
    BEGIN(T);                                                                                                                    \
    count_all(table, texts, filter, counts);                                                                                     \
  }                                                                                                                              \
  KERNEL_BLOCKS(256, 5, scan_write_##suffix, PARAMETERS(T), const i64 *places, i64 *found_at, i64 capacity) {                    \
    BEGIN(T);                                                                                                                    \
    write_all(table, texts, filter, places, found_at, capacity);                                                                 \
  }                                                                                                                              \
  KERNEL(256, scan_order_##suffix, const u8 *values, const T *offsets, const u32 *map, const i64 *found_at, const i64 *total,    \
         u32 *documents, u32 *patterns, i64 *starts, i64 capacity, int reach) {                                                  \
    order(values, offsets, map, found_at, *total < capacity ? *total : capacity, documents, patterns, starts, reach);            \
  }

SCAN(i32, i32)
SCAN(i64, i64)
