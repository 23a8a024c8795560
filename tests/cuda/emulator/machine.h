// A GPU's blocks on a CPU, for the logic of kernels: their text, compiled by the host's compiler,
// with the PTX of src/cuda/*.cuh replaced by what the PTX ISA says it does (cuda/*.cuh beside
// this).
//
// Threads are coroutines of one thread. Everything asynchronous happens as late as it may: cp.async
// when its group is waited for, wgmma when its warp waits for it, copies of the tensor engine at a
// random time; shared memory begins as NaN. So a barrier that is missing shows as a wrong result,
// one that never completes as a deadlock, which is reported. Not modelled: memory ordering, proxies
// and their fences, registers, bank conflicts, time.
#pragma once

#include <ucontext.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace emulator {

struct Dim {
  unsigned x = 0, y = 0, z = 0;
};

struct Launch {
  unsigned grid = 1, threads = 1;
  std::size_t shared_bytes = 0;
  unsigned seed = 1;
};

/// mbarrier: completes a phase when nothing is pending and all announced bytes have arrived.
struct Barrier {
  int expected = 0, pending = 0;
  std::int64_t bytes = 0;
  unsigned phase = 0;
  void check_complete() {
    if (pending != 0 || bytes != 0) return;
    pending = expected;
    phase ^= 1;
  }
};

/// Lanes that come together, once for each that comes.
struct Meeting {
  unsigned arrived = 0, generation = 0;
  std::array<void*, 32> brought{};
};

/// A product of a warpgroup, as far as one warp is concerned.
struct WarpProduct {
  std::array<float*, 32> sums;
  std::array<const std::uint32_t*, 32> registers{};  ///< Of a, where it lies in them.
  std::uint64_t a = 0, b = 0;
  int columns = 0;
  bool transposed_a = false, transposed_b = false;
  float (*to_float)(std::uint16_t) = nullptr;
};

struct Warp {
  Meeting meeting;
  std::vector<WarpProduct> open;                ///< Not yet committed.
  std::deque<std::vector<WarpProduct>> groups;  ///< Committed.
};

struct Block {
  static constexpr std::uint32_t kBase = 1024;  ///< Address of dynamic shared memory.
  unsigned index = 0;
  std::size_t size = 0;
  std::vector<std::uint8_t> storage;
  std::map<std::uint32_t, Barrier> barriers;
  std::array<Meeting, 16> meetings;
  std::vector<Warp> warps;

  std::uint8_t* at(std::uint32_t address, std::size_t bytes);
  Barrier& barrier(std::uint32_t address);
};

struct Copy16 {
  std::uint32_t to;
  const void* from;
  bool there;
};

struct Thread {
  ucontext_t context{};
  std::unique_ptr<std::uint8_t[]> stack;
  Block* block = nullptr;
  unsigned index = 0;
  bool done = false;
  bool (*ready)(void*) = nullptr;  ///< What it waits for.
  void* ready_argument = nullptr;
  std::vector<Copy16> open_copies;
  std::deque<std::vector<Copy16>> copies;

  [[nodiscard]] unsigned lane() const { return index % 32; }
  [[nodiscard]] Warp& warp() const { return block->warps[index / 32]; }
};

class Machine {
 public:
  /// Runs `body` in every thread of the grid, block after block. Throws std::runtime_error for
  /// a deadlock, an access outside of shared memory, or a barrier that is misused.
  void run(const Launch& launch, const std::function<void()>& body);

  static Machine& get();
  Thread& now() { return *now_; }
  [[nodiscard]] const Launch& launch() const { return launch_; }

  /// Lets others run until `ready()`.
  template <class Ready>
  void wait_until(Ready ready) {
    if (ready()) return;
    now_->ready = [](void* r) { return (*static_cast<Ready*>(r))(); };
    now_->ready_argument = &ready;
    suspend();
  }

  /// The lanes of a warp come together; the last one calls leader(what each has brought).
  template <class T, class Leader>
  void together(T& mine, Leader leader) {
    Meeting& meeting = now_->warp().meeting;
    meeting.brought[now_->lane()] = &mine;
    const unsigned generation = meeting.generation;
    if (++meeting.arrived == 32) {
      std::array<T*, 32> all;
      for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<T*>(meeting.brought[i]);
      leader(all);
      meeting.arrived = 0;
      ++meeting.generation;
    } else {
      wait_until([&meeting, generation] { return meeting.generation != generation; });
    }
  }

  /// `count` threads come together.
  void meet(Meeting& meeting, unsigned count);

  /// Some time, `copy` happens.
  void later(std::function<void()> copy) { engine_.push_back(std::move(copy)); }

 private:
  void suspend();
  void run_block(unsigned index);
  static void enter();

  Launch launch_;
  std::vector<std::unique_ptr<Thread>> threads_;
  Thread* now_ = nullptr;
  ucontext_t scheduler_{};
  std::deque<std::function<void()>> engine_;
  const std::function<void()>* body_ = nullptr;
  std::string error_;
  std::mt19937 random_;
};

/// Carries out a warp's share of a product: 16 of its 64 rows.
void multiply_now(const Block& block, unsigned warp, const WarpProduct& product);

/// Which bytes the hardware exchanges: rows of `bytes` (128, 64 or 32).
inline std::uint32_t swizzle(std::uint32_t address, unsigned bytes) {
  const std::uint32_t mask = bytes / 16 - 1;
  return address ^ ((address >> 7 & mask) << 4);
}

float from_bf16(std::uint16_t bits);
float from_f16(std::uint16_t bits);
std::uint16_t to_bf16(float value);
std::uint16_t to_f16(float value);

/// A kernel that was compiled with some constants.
struct Instance {
  const char* kernel;
  const char* defines;  ///< "A=1;B=2"
  void (*call)(void** arguments);
};
std::vector<Instance>& instances();

template <class... Parameters, std::size_t... I>
void call_with(void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_cv_t<std::remove_reference_t<Parameters>>*>(arguments[I])...);
}
template <class... Parameters>
void call(void (*kernel)(Parameters...), void** arguments) {
  call_with(kernel, arguments, std::index_sequence_for<Parameters...>{});
}

}  // namespace emulator
