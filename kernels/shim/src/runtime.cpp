// Schedules the threads of a CUDA block as fibers on one thread of the CPU.
//
// A fiber runs until it waits: at a block barrier, at a warp intrinsic, or at its end. Each round visits the fibers in another
// order, drawn from the seed of the launch, and so do the blocks of the grid. Beside that, every access to shared memory is
// recorded: two threads that touch the same value, one of them writing, with neither a block barrier nor a __syncwarp of both
// between them, are a fault, whether or not the order of this run made the result wrong.
#include "gristmill_shim.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <numeric>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace gristmill_shim {

thread_local View view;

namespace {

#if defined(__x86_64__)
// Saves what the System V ABI calls callee-saved, and continues on another stack. swapcontext does the same with a system call.
struct Context {
  void *stack_pointer;
};
extern "C" void gristmill_shim_switch(void **save, void *to);
asm(R"(
.pushsection .text
.weak gristmill_shim_switch
.type gristmill_shim_switch,@function
gristmill_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  subq $8, %rsp
  stmxcsr (%rsp)
  fnstcw 4(%rsp)
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  ldmxcsr (%rsp)
  fldcw 4(%rsp)
  addq $8, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size gristmill_shim_switch,.-gristmill_shim_switch
.popsection
)");
void change(Context &from, Context &to) { gristmill_shim_switch(&from.stack_pointer, to.stack_pointer); }
void prepare(Context &context, char *stack, size_t bytes, void (*entry)()) {
  auto *top = reinterpret_cast<uint64_t *>(reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t{15});
  *--top = 0;
  *--top = reinterpret_cast<uint64_t>(entry);
  for (int i = 0; i < 6; i++) *--top = 0;
  uint32_t mxcsr;
  uint16_t control;
  asm volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr), "=m"(control));
  *--top = mxcsr | static_cast<uint64_t>(control) << 32;
  context.stack_pointer = top;
}
#else
struct Context {
  ucontext_t context;
};
void change(Context &from, Context &to) { swapcontext(&from.context, &to.context); }
void prepare(Context &context, char *stack, size_t bytes, void (*entry)()) {
  getcontext(&context.context);
  context.context.uc_stack.ss_sp = stack;
  context.context.uc_stack.ss_size = bytes;
  context.context.uc_link = nullptr;
  makecontext(&context.context, entry, 0);
}
#endif

enum class State : uint8_t { READY, AT_BARRIER, AT_MEETING, DONE };

struct Gathering {
  uint32_t mask, arrived, left;
  Meeting kind;
  uint64_t values[32];
};

struct Copy {
  const Region *region;
  char *to;
  const void *from;
  int valid;
};

struct Fiber {
  Context context;
  // Copies that the thread began: groups that it ended, and those since.
  std::deque<std::vector<Copy>> groups;
  std::vector<Copy> begun;
  uint3 index;
  State state;
  int site, predicate, predicates;
  Gathering *gathering;
};

struct Warp {
  std::vector<Gathering *> open;
  // Masks of the __syncwarp calls since the last block barrier: what orders accesses to shared memory within the warp.
  std::vector<uint32_t> synchronised;
};

// Who touched a value of shared memory: lanes of one warp, or several warps.
struct Touch {
  uint64_t epoch = 0;
  uint32_t lanes = 0, order = 0;
  int warp = -1;
};
constexpr int MANY_WARPS = -2;
struct Shadow {
  Touch reads, writes, atomics;
};
struct SharedMemory {
  const void *tag;
  std::unique_ptr<char[]> memory;
  std::vector<Shadow> shadow;
  Region region;
};

constexpr size_t STACK = 128 * 1024;
constexpr uint64_t CANARY = 0x5afe57ac5afe57acull;
constexpr size_t MOST_SHARED = 227 * 1024;

struct Run {
  const Kernel *kernel = nullptr;
  void **arguments = nullptr;
  Context main;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::deque<Gathering> gatherings;
  std::vector<Gathering *> spare;
  std::deque<SharedMemory> shared;
  std::unique_ptr<char[]> stacks;
  size_t stack_count = 0, dynamic_bytes = 0;
  Fiber *current = nullptr;
  uint64_t random = 0, epoch = 0;
  bool failed = false;
  uint3 failed_thread{}, failed_block{};
  char message[512] = {};
};
thread_local Run run;

uint64_t draw(uint64_t below) {
  run.random = run.random * 6364136223846793005ull + 1442695040888963407ull;
  return (run.random >> 33) % below;
}
void shuffle_order(std::vector<unsigned> &order) {
  for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[draw(i)]);
}

void pause() { change(run.current->context, run.main); }

void record(const uint3 &thread, const char *format, ...) {
  if (run.failed) return;
  run.failed = true;
  run.failed_thread = thread;
  run.failed_block = view.block_index;
  va_list list;
  va_start(list, format);
  vsnprintf(run.message, sizeof run.message, format, list);
  va_end(list);
}
// A fiber that failed never continues: the scheduler sees `failed` and gives the launch up.
[[noreturn]] void give_up() {
  for (;;) pause();
}

void entry() {
  run.kernel->invoke(run.arguments);
  bool copies = !run.current->begun.empty();
  for (const auto &group : run.current->groups) copies |= !group.empty();
  if (copies) fault("the thread ends, and never waited for copies that it began");
  run.current->state = State::DONE;
  give_up();
}

unsigned lanes_of(size_t warp) {
  const size_t first = warp * 32, count = run.fibers.size() - first;
  return count >= 32 ? 0xffffffffu : (1u << count) - 1;
}

// Ends the meetings of which every lane that still runs has arrived.
bool close_meetings(size_t number) {
  Warp &warp = run.warps[number];
  bool any = false;
  for (size_t i = 0; i < warp.open.size();) {
    Gathering *gathering = warp.open[i];
    uint32_t awaited = gathering->mask & lanes_of(number);
    for (unsigned lane = 0; lane < 32; lane++)
      if ((awaited >> lane & 1) && run.fibers[number * 32 + lane].state == State::DONE) awaited &= ~(1u << lane);
    if ((gathering->arrived & awaited) != awaited) {
      i++;
      continue;
    }
    if (gathering->kind == Meeting::SYNC) warp.synchronised.push_back(gathering->arrived);
    gathering->left = gathering->arrived;
    for (unsigned lane = 0; lane < 32; lane++)
      if (gathering->arrived >> lane & 1) run.fibers[number * 32 + lane].state = State::READY;
    warp.open[i] = warp.open.back();
    warp.open.pop_back();
    any = true;
  }
  return any;
}

const Gathering *gather(uint32_t mask, uint64_t value, Meeting kind) {
  Fiber &fiber = *run.current;
  const size_t number = view.linear / 32;
  const uint32_t own = 1u << (view.linear & 31);
  Warp &warp = run.warps[number];
  if (!(mask & own)) fault("a warp intrinsic was called by a lane that is not in its mask");
  if (mask & ~lanes_of(number) && mask != 0xffffffffu) fault("the mask of a warp intrinsic names lanes that the block does not have");
  Gathering *gathering = nullptr;
  for (Gathering *other : warp.open) {
    if (other->mask == mask) gathering = other;
    else if (other->mask & mask) fault("warp intrinsics with overlapping masks at the same time");
  }
  if (!gathering) {
    if (run.spare.empty()) {
      run.gatherings.emplace_back();
      run.spare.push_back(&run.gatherings.back());
    }
    gathering = run.spare.back();
    run.spare.pop_back();
    *gathering = Gathering{mask, 0, 0, kind, {}};
    warp.open.push_back(gathering);
  }
  if (gathering->kind != kind) fault("lanes of one mask met in different warp intrinsics");
  gathering->values[own ? view.linear & 31 : 0] = value;
  gathering->arrived |= own;
  fiber.gathering = gathering;
  fiber.state = State::AT_MEETING;
  pause();
  return gathering;
}
void leave(const Gathering *gathering) {
  auto *own = const_cast<Gathering *>(gathering);
  own->left &= ~(1u << (view.linear & 31));
  if (!own->left) run.spare.push_back(own);
}

bool ordered(const Touch &touch, int warp, uint32_t lane) {
  if (touch.epoch != run.epoch) return true;
  if (touch.warp != warp) return false;
  if ((touch.lanes & ~lane) == 0) return true;
  const auto &masks = run.warps[static_cast<size_t>(warp)].synchronised;
  for (size_t i = touch.order; i < masks.size(); i++)
    if ((masks[i] & (touch.lanes | lane)) == (touch.lanes | lane)) return true;
  return false;
}
void add(Touch &touch, int warp, uint32_t lane) {
  if (touch.epoch != run.epoch) touch = Touch{run.epoch, lane, 0, warp};
  else if (touch.warp != warp) touch.warp = MANY_WARPS;
  else touch.lanes |= lane;
  if (touch.warp >= 0) touch.order = static_cast<uint32_t>(run.warps[static_cast<size_t>(warp)].synchronised.size());
}

void run_block(std::vector<unsigned> &order) {
  const dim3 &size = view.block;
  for (auto &warp : run.warps) {
    warp.open.clear();
    warp.synchronised.clear();
  }
  run.spare.clear();
  for (auto &gathering : run.gatherings) run.spare.push_back(&gathering);
  // Bytes of ones: a floating-point value that was never written is then not a number.
  for (auto &memory : run.shared) memset(memory.region.base, 0xff, memory.region.bytes);
  run.epoch++;
  for (unsigned i = 0; i < run.fibers.size(); i++) {
    Fiber &fiber = run.fibers[i];
    char *stack = run.stacks.get() + i * STACK;
    fiber.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    fiber.state = State::READY;
    fiber.groups.clear();
    fiber.begun.clear();
    memcpy(stack, &CANARY, sizeof CANARY);
    prepare(fiber.context, stack, STACK, entry);
  }
  for (;;) {
    shuffle_order(order);
    bool ran = false;
    for (unsigned i : order) {
      Fiber &fiber = run.fibers[i];
      if (fiber.state != State::READY) continue;
      ran = true;
      run.current = &fiber;
      view.thread_index = fiber.index;
      view.linear = i;
      change(run.main, fiber.context);
      if (memcmp(run.stacks.get() + i * STACK, &CANARY, sizeof CANARY)) record(fiber.index, "the stack of a thread overflowed");
      if (run.failed) return;
    }
    size_t done = 0, waiting = 0;
    for (auto &fiber : run.fibers) {
      done += fiber.state == State::DONE;
      waiting += fiber.state == State::AT_BARRIER;
    }
    if (done == run.fibers.size()) return;
    bool released = false;
    for (size_t i = 0; i < run.warps.size(); i++) released |= close_meetings(i);
    if (!released && waiting + done == run.fibers.size()) {
      const Fiber *first = nullptr;
      int predicates = 0;
      for (auto &fiber : run.fibers) {
        if (fiber.state != State::AT_BARRIER) continue;
        if (!first) first = &fiber;
        if (fiber.site != first->site) return record(fiber.index, "divergent barrier: threads of one block wait at different __syncthreads()");
        predicates += fiber.predicate;
      }
      for (auto &fiber : run.fibers)
        if (fiber.state == State::AT_BARRIER) {
          fiber.state = State::READY;
          fiber.predicates = predicates;
        }
      for (auto &warp : run.warps) warp.synchronised.clear();
      run.epoch++;
      released = true;
    }
    if (!released && !ran) {
      for (auto &fiber : run.fibers)
        if (fiber.state == State::AT_MEETING) return record(fiber.index, "deadlock: a warp intrinsic waits for lanes that never reach it");
      return record(run.fibers[0].index, "deadlock");
    }
  }
}

Kernel *&kernels() {
  static Kernel *first = nullptr;
  return first;
}

SharedMemory &new_shared(const void *tag, size_t bytes, const char *name) {
  SharedMemory memory;
  memory.tag = tag;
  memory.memory.reset(new char[bytes + 16]);
  char *base = reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(memory.memory.get()) + 15) & ~uintptr_t{15});
  memset(base, 0xff, bytes);
  memory.shadow.resize(bytes);
  memory.region = Region{base, bytes, name, memory.shadow.data()};
  run.shared.push_back(std::move(memory));
  return run.shared.back();
}

}  // namespace

Kernel::Kernel(const char *name, unsigned threads, const char *kinds, void (*invoke)(void **))
    : name(name), threads(threads), kinds(kinds), invoke(invoke), next(kernels()) {
  kernels() = this;
}

void fault(const char *message) {
  record(run.current->index, "%s", message);
  give_up();
}
void out_of_bounds(const Region *region, const void *address, size_t size) {
  const auto offset = static_cast<const char *>(address) - region->base;
  record(run.current->index, "shared memory `%s` has %zu bytes, and bytes %lld to %lld were asked for", region->name, region->bytes,
         static_cast<long long>(offset), static_cast<long long>(offset) + static_cast<long long>(size) - 1);
  give_up();
}

void barrier(int site) { barrier_count(site, 0); }
int barrier_count(int site, int predicate) {
  run.current->site = site;
  run.current->predicate = predicate != 0;
  run.current->state = State::AT_BARRIER;
  pause();
  return run.current->predicates;
}
void meet(uint32_t mask, uint64_t value, Meeting kind, uint64_t (&values)[32]) {
  const Gathering *gathering = gather(mask, value, kind);
  memcpy(values, gathering->values, sizeof values);
  leave(gathering);
}
void meet_whole(uint64_t value, uint64_t (&values)[32]) {
  const Gathering *gathering = gather(0xffffffffu, value, Meeting::WHOLE);
  if (gathering->arrived != 0xffffffffu) fault("an instruction of a whole warp was executed by a part of its lanes");
  memcpy(values, gathering->values, sizeof values);
  leave(gathering);
}
uint64_t exchange(uint32_t mask, uint64_t value, Meeting kind, int source) {
  const Gathering *gathering = gather(mask, value, kind);
  const int lane = source & 31;
  if (!(gathering->arrived >> lane & 1)) fault("a shuffle reads from a lane that does not take part in it");
  const uint64_t result = gathering->values[lane];
  leave(gathering);
  return result;
}

const Region *shared_region(const void *tag, size_t bytes, const char *name) {
  size_t total = bytes;
  for (auto &memory : run.shared) {
    if (memory.tag == tag) return &memory.region;
    total += memory.region.bytes;
  }
  if (total > MOST_SHARED) fault("more shared memory than a block can have");
  return &new_shared(tag, bytes, name).region;
}
const Region *dynamic_region(const char *name) {
  static const char tag = 0;
  const Region *region = shared_region(&tag, run.dynamic_bytes, name);
  const_cast<Region *>(region)->name = name;
  return region;
}

void touch(const Region *region, const void *address, Access access) {
  Shadow &shadow = static_cast<Shadow *>(region->shadow)[static_cast<const char *>(address) - region->base];
  const int warp = static_cast<int>(view.linear / 32);
  const uint32_t lane = 1u << (view.linear & 31);
  const bool fine = (access == Access::WRITE ? ordered(shadow.reads, warp, lane) : true) && ordered(shadow.writes, warp, lane) &&
                    (access == Access::ATOMIC ? ordered(shadow.reads, warp, lane) : ordered(shadow.atomics, warp, lane));
  if (!fine) {
    record(run.current->index, "race: byte %lld of shared memory `%s` is %s with no barrier after another thread's access",
           static_cast<long long>(static_cast<const char *>(address) - region->base), region->name,
           access == Access::READ ? "read" : access == Access::WRITE ? "written" : "changed atomically");
    give_up();
  }
  if (access == Access::READ) add(shadow.reads, warp, lane);
  else if (access == Access::ATOMIC) add(shadow.atomics, warp, lane);
  else shadow.writes = Touch{run.epoch, lane, static_cast<uint32_t>(run.warps[static_cast<size_t>(warp)].synchronised.size()), warp};
}

void copy_async(const Region *region, void *to, const void *from, int valid) {
  char *start = static_cast<char *>(to);
  if (!region) fault("shared memory is used through an empty pointer");
  if (start < region->base || start + 16 > region->base + region->bytes) out_of_bounds(region, to, 16);
  if (valid < 0 || valid > 16) fault("an asynchronous copy has 0 to 16 bytes");
  if (reinterpret_cast<uintptr_t>(to) % 16 || reinterpret_cast<uintptr_t>(from) % 16) fault("an asynchronous copy is not at a multiple of 16 bytes");
  run.current->begun.push_back(Copy{region, start, from, valid});
}
void copies_commit() {
  run.current->groups.push_back(std::move(run.current->begun));
  run.current->begun.clear();
}
void copies_wait(int pending) {
  auto &groups = run.current->groups;
  while (groups.size() > static_cast<size_t>(pending)) {
    for (const Copy &copy : groups.front()) {
      for (int i = 0; i < 16; i++) touch(copy.region, copy.to + i, Access::WRITE);
      memset(copy.to, 0, 16);
      if (copy.valid) memcpy(copy.to, copy.from, static_cast<size_t>(copy.valid));
    }
    groups.pop_front();
  }
}

}  // namespace gristmill_shim

using namespace gristmill_shim;

struct gristmill_shim_fault {
  uint32_t thread[3], block[3];
  char message[512];
};

// 0: the kernel ran. 1: `fault` says which thread did what. 2: the launch itself is wrong, `fault->message` says why.
extern "C" int gristmill_shim_launch(const char *name, const uint32_t *grid, const uint32_t *block, size_t shared_bytes, uint64_t seed,
                                     const char *kinds, void **arguments, gristmill_shim_fault *fault) {
  const auto refuse = [&](const char *format, const char *detail) {
    snprintf(fault->message, sizeof fault->message, format, detail);
    return 2;
  };
  const Kernel *kernel = kernels();
  while (kernel && strcmp(kernel->name, name)) kernel = kernel->next;
  if (!kernel) return refuse("there is no such kernel%s", "");
  if (strcmp(kernel->kinds, kinds)) return refuse("the kernel's parameters are of the kinds \"%s\"", kernel->kinds);
  const uint64_t threads = static_cast<uint64_t>(block[0]) * block[1] * block[2];
  if (!threads || threads > 1024 || block[2] > 64) return refuse("a block has 1 to 1,024 threads%s", "");
  if (threads > kernel->threads) return refuse("more threads in a block than the kernel is compiled for%s", "");
  if (!grid[0] || !grid[1] || !grid[2] || grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535)
    return refuse("a grid has 1 to 2,147,483,647 by 65,535 by 65,535 blocks%s", "");
  if (shared_bytes > MOST_SHARED) return refuse("more shared memory than a block can have%s", "");

  run.kernel = kernel;
  run.arguments = arguments;
  run.random = seed;
  run.failed = false;
  run.shared.clear();
  run.dynamic_bytes = shared_bytes;
  run.fibers.assign(threads, Fiber{});
  run.warps.assign((threads + 31) / 32, Warp{});
  if (run.stack_count < threads) {
    run.stacks.reset(new char[threads * STACK]);
    run.stack_count = threads;
  }
  view.grid = dim3(grid[0], grid[1], grid[2]);
  view.block = dim3(block[0], block[1], block[2]);
  std::vector<unsigned> order(threads);
  std::iota(order.begin(), order.end(), 0u);
  const uint64_t plane = static_cast<uint64_t>(grid[0]) * grid[1];
  std::vector<unsigned> blocks(plane * grid[2]);
  std::iota(blocks.begin(), blocks.end(), 0u);
  shuffle_order(blocks);
  for (unsigned i : blocks) {
    view.block_index = {static_cast<unsigned>(i % grid[0]), static_cast<unsigned>(i % plane / grid[0]), static_cast<unsigned>(i / plane)};
    run_block(order);
    if (!run.failed) continue;
    memcpy(fault->thread, &run.failed_thread, sizeof fault->thread);
    memcpy(fault->block, &run.failed_block, sizeof fault->block);
    memcpy(fault->message, run.message, sizeof fault->message);
    return 1;
  }
  return 0;
}

// The names of all kernels, one call for each.
extern "C" void gristmill_shim_kernels(void (*each)(void *context, const char *name), void *context) {
  for (const Kernel *kernel = kernels(); kernel; kernel = kernel->next) each(context, kernel->name);
}
