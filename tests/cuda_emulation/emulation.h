// CUDA on the CPU, for tests: as much of it as kernels.cu uses.
//
// The threads of a block are fibers that run one after the other, each up to its next barrier or to its next
// instruction of the warp, in an order that is shuffled anew each time: what needs a barrier and has none gives wrong
// results, a barrier that some threads of a block do not reach is an error. Blocks run in shuffled order too. Shared
// memory is as large as was asked for, and begins as garbage.

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
#define SANITIZED 1
#else
#define SANITIZED 0
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
};

inline Block* block;
inline Dim block_index, block_dim, grid_dim;

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "emulation: %s\n", what);
    std::fflush(stderr);
    std::abort();
}

// Switching by jumps saves two system calls each time; the sanitizers want to be told, and know contexts only.
inline void leave_fiber(State state) {
    Fiber& fiber = *block->now;
    fiber.state = state;
#if SANITIZED
    __sanitizer_start_switch_fiber(&fiber.fake_stack, block->stack, block->stack_bytes);
    swapcontext(&fiber.context, &block->scheduler);
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &block->stack, &block->stack_bytes);
#else
    if (!_setjmp(fiber.place)) _longjmp(block->place, 1);
#endif
}

inline void fiber_main() {
#if SANITIZED
    __sanitizer_finish_switch_fiber(nullptr, &block->stack, &block->stack_bytes);
#endif
    for (;;) {
        block->body(block->arguments);
        leave_fiber(DONE);
    }
}

inline void enter_fiber(Fiber& fiber) {
    block->now = &fiber;
#if SANITIZED
    __sanitizer_start_switch_fiber(&block->fake_stack, fiber.stack.get(), STACK_BYTES);
    swapcontext(&block->scheduler, &fiber.context);
    __sanitizer_finish_switch_fiber(block->fake_stack, nullptr, nullptr);
#else
    if (_setjmp(block->place)) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.context);
#endif
}

inline void start(Fiber& fiber, unsigned index) {
    fiber.state = READY;
    fiber.index = index;
    if (fiber.stack) return;  // it waits for another block
    fiber.stack.reset(new char[STACK_BYTES]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
}

// Let the threads of a warp go on that wait for each other; whether there were any.
inline bool release_warps(unsigned threads) {
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

inline bool release_barrier(unsigned threads) {
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

inline void run_block(std::mt19937& random) {
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

inline void run_grid(void (*body)(const void*), const void* arguments, unsigned blocks, unsigned threads, size_t shared_bytes, unsigned seed) {
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
    for (unsigned i : order) {
        std::unique_ptr<char[]> shared(new char[shared_bytes]);  // begins at a multiple of 16
        std::memset(shared.get(), 0xa5, shared_bytes);
        own.shared = shared.get();
        block_index.x = i;
        run_block(random);
    }
}

inline void wait_for_warp(int instruction) {
    block->now->instruction = instruction;
    leave_fiber(AT_WARP);
}

// Tell the warp a value, and hand what all its threads told to a function.
template <class T, class Function>
inline auto collective(int instruction, unsigned mask, T value, Function function) {
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
