// CUDA on the CPU, for tests: as much of it as kernels.cu uses.
//
// The threads of a block are fibers that run one after the other, each up to its next barrier or to its next
// instruction of the warp, in an order that is shuffled anew each time: what needs a barrier and has none gives wrong
// results, a barrier that some threads of a block do not reach is an error. Blocks run in shuffled order too. Shared
// memory is as large as was asked for, and begins as garbage.
//
// Under ThreadSanitizer each fiber is a thread of its own, for which only a barrier, __syncwarp() and the end of a kernel
// order memory, not the votes and shuffles of a warp: two threads, of one block or of two, that touch an item without
// one of these between them are a data race, in whatever order they run.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define RACES 1
#define UNSEEN __attribute__((no_sanitize("thread")))
#else
#define RACES 0
#define UNSEEN
#endif
#include <csetjmp>
#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __align__(size) alignas(size)
#define DYNAMIC_SHARED(name) char* name = emulation::block->shared

using std::ceil;
using std::fabs;
using std::floor;
using std::fma;

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

namespace emulation {

struct Dim {
    unsigned x = 0;
};

const int WARP_SIZE = 32;
const size_t STACK_BYTES = 1 << 17;
const int ORDERS = 64;  // barriers in a row that are told from each other

enum State { READY, AT_BARRIER, AT_WARP, DONE };

struct Fiber {
    ucontext_t context;
    jmp_buf place;
    std::unique_ptr<char[]> stack;
    void* fake_stack = nullptr;
    State state = DONE;
    bool started = false;
    unsigned index = 0;
    int instruction = 0;  // of the warp, that it waits at
    unsigned barriers = 0, meetings = 0;  // how often it was at one: of the block, of the warp
    void* race_thread = nullptr;
    uint64_t slot = 0;  // what it tells the other threads of its warp
};

struct Block {
    std::vector<Fiber> fibers;
    Fiber* now = nullptr;
    char* shared = nullptr;
    void (*body)(const void*) = nullptr;
    const void* arguments = nullptr;
    ucontext_t scheduler;
    jmp_buf place;
    void* fake_stack = nullptr;
    const void* stack = nullptr;  // of the scheduler
    size_t stack_bytes = 0;
    void* race_thread = nullptr;
    char begin, end, barriers[ORDERS], meetings[32][ORDERS];  // only their addresses count: what orders memory
};

inline Block* block;
inline Dim block_index, block_dim, grid_dim;

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "emulation: %s\n", what);
    std::fflush(stderr);
    std::abort();
}

#if RACES
inline void order_before(void* at) { __tsan_release(at); }
inline void order_after(void* at) { __tsan_acquire(at); }
#else
inline void order_before(void*) {}
inline void order_after(void*) {}
#endif

// What a fiber meets others at, that orders memory.
UNSEEN inline void* meeting(Fiber& fiber, State state) {
    if (state == AT_BARRIER) return &block->barriers[fiber.barriers++ % ORDERS];
    if (state == AT_WARP && fiber.instruction == 0)
        return &block->meetings[fiber.index / WARP_SIZE][fiber.meetings++ % ORDERS];
    return state == DONE ? &block->end : nullptr;
}

// Switching by jumps saves two system calls each time; the sanitizers want to be told, and know contexts only.
UNSEEN inline void leave_fiber(State state) {
    Fiber& fiber = *block->now;
    void* at = meeting(fiber, state);
    if (at) order_before(at);
    fiber.state = state;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fiber.fake_stack, block->stack, block->stack_bytes);
    swapcontext(&fiber.context, &block->scheduler);
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &block->stack, &block->stack_bytes);
#elif RACES
    __tsan_switch_to_fiber(block->race_thread, __tsan_switch_to_fiber_no_sync);
    swapcontext(&fiber.context, &block->scheduler);
#else
    if (!_setjmp(fiber.place)) _longjmp(block->place, 1);
#endif
    if (at && state != DONE) order_after(at);
}

UNSEEN inline void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &block->stack, &block->stack_bytes);
#endif
    for (;;) {
        order_after(&block->begin);
        block->body(block->arguments);
        leave_fiber(DONE);
    }
}

UNSEEN inline void enter_fiber(Fiber& fiber) {
    block->now = &fiber;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&block->fake_stack, fiber.stack.get(), STACK_BYTES);
    swapcontext(&block->scheduler, &fiber.context);
    __sanitizer_finish_switch_fiber(block->fake_stack, nullptr, nullptr);
#elif RACES
    if (!fiber.race_thread) fiber.race_thread = __tsan_create_fiber(0);
    __tsan_switch_to_fiber(fiber.race_thread, __tsan_switch_to_fiber_no_sync);
    swapcontext(&block->scheduler, &fiber.context);
#else
    if (_setjmp(block->place)) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.context);
#endif
}

UNSEEN inline void start(Fiber& fiber, unsigned index) {
    fiber.state = READY;
    fiber.index = index;
    fiber.barriers = fiber.meetings = 0;
    if (fiber.stack) return;  // it waits for another block
    fiber.stack.reset(new char[STACK_BYTES]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
}

// Let the threads of a warp go on that wait for each other; whether there were any.
UNSEEN inline bool release_warps(unsigned threads) {
    bool released = false;
    for (unsigned first = 0; first < threads; first += WARP_SIZE) {
        unsigned stop = std::min(first + WARP_SIZE, threads), waiting = 0;
        for (unsigned i = first; i < stop; i++) {
            waiting += block->fibers[i].state == AT_WARP;
            if (block->fibers[i].state == AT_WARP && block->fibers[i].instruction != block->fibers[first].instruction)
                fail("the threads of a warp wait at different instructions");
        }
        if (waiting == 0) continue;
        if (waiting != stop - first) fail("not all threads of a warp reach an instruction that names them");
        for (unsigned i = first; i < stop; i++) block->fibers[i].state = READY;
        released = true;
    }
    return released;
}

UNSEEN inline bool release_barrier(unsigned threads) {
    unsigned waiting = 0, done = 0;
    for (unsigned i = 0; i < threads; i++) {
        waiting += block->fibers[i].state == AT_BARRIER;
        done += block->fibers[i].state == DONE;
    }
    if (done == threads) return false;
    if (waiting != threads) fail("not all threads of a block reach a barrier");
    for (unsigned i = 0; i < threads; i++) block->fibers[i].state = READY;
    return true;
}

UNSEEN inline void run_block(std::mt19937& random) {
    unsigned threads = block_dim.x;
    std::vector<unsigned> order(threads);
    for (unsigned i = 0; i < threads; i++) {
        order[i] = i;
        start(block->fibers[i], i);
    }
    do {
        std::shuffle(order.begin(), order.end(), random);
        for (unsigned i : order)
            if (block->fibers[i].state == READY) enter_fiber(block->fibers[i]);
    } while (release_warps(threads) || release_barrier(threads));
}

inline std::unique_ptr<char[]> shared_memory(size_t bytes) {
    std::unique_ptr<char[]> memory(new char[bytes]);  // begins at a multiple of 16
    std::memset(memory.get(), 0xa5, bytes);
    return memory;
}

UNSEEN inline void run_grid(void (*body)(const void*), const void* arguments, unsigned blocks, unsigned threads, size_t shared_bytes, unsigned seed) {
    static Block own;
    std::mt19937 random(seed);
    std::vector<unsigned> order(blocks);
    for (unsigned i = 0; i < blocks; i++) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    block = &own;
    if (own.fibers.empty()) own.fibers.resize(1024);  // the most that a block has; they stay where they are
    own.body = body;
    own.arguments = arguments;
    block_dim.x = threads;
    grid_dim.x = blocks;
    std::vector<std::unique_ptr<char[]>> shared(RACES ? blocks : 1);
    own.begin = own.end = 0;
#if RACES  // memory that blocks had one after the other would look like a race
    own.race_thread = __tsan_get_current_fiber();
    for (auto& memory : shared) memory = shared_memory(shared_bytes);
#endif
    order_before(&own.begin);
    for (unsigned i : order) {
        if (!RACES) shared[0] = shared_memory(shared_bytes);
        own.shared = shared[RACES ? i : 0].get();
        block_index.x = i;
        run_block(random);
    }
    order_after(&own.end);
}

UNSEEN inline void wait_for_warp(int instruction) {
    block->now->instruction = instruction;
    leave_fiber(AT_WARP);
}

// Tell the warp a value, and hand what all its threads told to a function.
template <class T, class Function>
UNSEEN inline auto collective(int instruction, unsigned mask, T value, Function function) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "");
    if (mask != 0xffffffffu) fail("only instructions of whole warps are emulated");
    Fiber& own = *block->now;
    std::memcpy(&own.slot, &value, sizeof(T));
    wait_for_warp(instruction);
    T values[WARP_SIZE];
    unsigned first = own.index / WARP_SIZE * WARP_SIZE;
    for (int i = 0; i < WARP_SIZE; i++) std::memcpy(&values[i], &block->fibers[first + i].slot, sizeof(T));
    auto result = function(values, own.index % WARP_SIZE);
    wait_for_warp(instruction + 1);
    return result;
}

}  // namespace emulation

#define blockIdx emulation::block_index
#define blockDim emulation::block_dim
#define gridDim emulation::grid_dim
#define threadIdx (emulation::Dim{emulation::block->now->index})

inline void __syncthreads() { emulation::leave_fiber(emulation::AT_BARRIER); }
inline void __syncwarp() { emulation::wait_for_warp(0); }

template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    return emulation::collective(10, mask, value, [=](const T* values, int own) { return values[own ^ lanes]; });
}

inline unsigned __ballot_sync(unsigned mask, bool value) {
    return emulation::collective(20, mask, value, [](const bool* values, int) {
        unsigned found = 0;
        for (int i = 0; i < emulation::WARP_SIZE; i++) found |= (unsigned)values[i] << i;
        return found;
    });
}

inline bool __any_sync(unsigned mask, bool value) { return __ballot_sync(mask, value) != 0; }

inline unsigned __match_any_sync(unsigned mask, int value) {
    return emulation::collective(30, mask, value, [](const int* values, int own) {
        unsigned found = 0;
        for (int i = 0; i < emulation::WARP_SIZE; i++) found |= (unsigned)(values[i] == values[own]) << i;
        return found;
    });
}

inline int __ffs(unsigned value) { return __builtin_ffs((int)value); }
inline int __popc(unsigned value) { return __builtin_popcount(value); }

template <class To, class From>
inline To bits_as(From value) {
    static_assert(sizeof(To) == sizeof(From), "");
    To result;
    std::memcpy(&result, &value, sizeof(To));
    return result;
}

inline float __uint_as_float(unsigned bits) { return bits_as<float>(bits); }
inline float __int_as_float(int bits) { return bits_as<float>(bits); }
inline unsigned __float_as_uint(float value) { return bits_as<unsigned>(value); }
inline float half_to_float(unsigned short bits) { return (float)bits_as<_Float16>(bits); }
inline unsigned short double_to_half(double value) { return bits_as<unsigned short>((_Float16)value); }
