#include "emulator/machine.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "rarefy/dtype.h"

namespace emulator {
namespace {

constexpr std::size_t kStack = std::size_t{256} << 10;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error("emulated GPU: " + what);
}

/// Apart from loops: what getcontext's second return could clobber is not there.
[[gnu::noinline]] void prepare(Thread& thread, void (*entry)()) {
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = thread.stack.get();
  thread.context.uc_stack.ss_size = kStack;
  thread.context.uc_link = nullptr;
  makecontext(&thread.context, entry, 0);
}

}  // namespace

Machine& Machine::get() {
  static Machine machine;
  return machine;
}

std::uint8_t* Block::at(std::uint32_t address, std::size_t bytes) {
  if (address < kBase || address + bytes > kBase + size)
    fail("shared memory at " + std::to_string(address) + " of " + std::to_string(size) + " bytes");
  if (address % std::min<std::size_t>(bytes, 16) != 0) fail("misaligned access to shared memory");
  return storage.data() + (address - kBase);
}

Barrier& Block::barrier(std::uint32_t address) {
  at(address, 8);
  const auto found = barriers.find(address);
  if (found == barriers.end()) fail("no barrier at " + std::to_string(address));
  return found->second;
}

void Machine::enter() {
  Machine& machine = get();
  try {
    (*machine.body_)();
  } catch (const std::exception& error) {
    machine.error_ = error.what();
  }
  machine.now_->done = true;
  swapcontext(&machine.now_->context, &machine.scheduler_);
}

void Machine::suspend() {
  swapcontext(&now_->context, &scheduler_);
}

void Machine::meet(Meeting& meeting, unsigned count) {
  const unsigned generation = meeting.generation;
  if (++meeting.arrived == count) {
    meeting.arrived = 0;
    ++meeting.generation;
  } else {
    wait_until([&meeting, generation] { return meeting.generation != generation; });
  }
}

void Machine::run(const Launch& launch, const std::function<void()>& body) {
  launch_ = launch;
  body_ = &body;
  random_.seed(launch.seed);
  for (unsigned index = 0; index < launch.grid; ++index) run_block(index);
}

void Machine::run_block(unsigned index) {
  threads_.clear();
  engine_.clear();
  error_.clear();
  Block block;
  block.index = index;
  block.size = launch_.shared_bytes;
  block.storage.assign(launch_.shared_bytes, 0xFF);
  block.warps.resize((launch_.threads + 31) / 32);
  for (unsigned i = 0; i < launch_.threads; ++i) {
    auto thread = std::make_unique<Thread>();
    thread->block = &block;
    thread->index = i;
    thread->stack = std::make_unique_for_overwrite<std::uint8_t[]>(kStack);
    prepare(*thread, &Machine::enter);
    threads_.push_back(std::move(thread));
  }
  std::vector<Thread*> left;
  for (const auto& thread : threads_) left.push_back(thread.get());
  while (!left.empty()) {
    bool moved = false;
    // Warps in another order every time; within one, order shows nothing.
    std::rotate(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(random_() % left.size()),
                left.end());
    for (Thread* thread : left) {
      if (thread->ready != nullptr && !thread->ready(thread->ready_argument)) continue;
      thread->ready = nullptr;
      moved = true;
      now_ = thread;
      swapcontext(&scheduler_, &thread->context);
      if (!error_.empty()) throw std::runtime_error(error_);
    }
    std::erase_if(left, [](const Thread* thread) { return thread->done; });
    // The engine is slow, and in no order.
    while (!engine_.empty() && (!moved || random_() % 4 == 0)) {
      std::swap(engine_.front(), engine_[random_() % engine_.size()]);
      engine_.front()();
      engine_.pop_front();
      moved = true;
    }
    if (!moved) fail("deadlock: " + std::to_string(left.size()) + " threads wait for ever");
  }
  if (!engine_.empty()) fail("copies were on their way when the kernel ended");
  for (const auto& [address, barrier] : block.barriers)
    if (barrier.bytes != 0) fail("bytes were awaited when the kernel ended");
}

namespace {

/// One of wgmma's operands: where element (row along M or N, k) lies.
struct Operand {
  std::uint32_t start, next, stride;
  unsigned row_bytes;
  bool transposed;

  Operand(std::uint64_t bits, bool is_transposed)
      : start(static_cast<std::uint32_t>(bits & 0x3fff) << 4),
        next(static_cast<std::uint32_t>(bits >> 16 & 0x3fff) << 4),
        stride(static_cast<std::uint32_t>(bits >> 32 & 0x3fff) << 4),
        row_bytes(0),
        transposed(is_transposed) {
    const unsigned mode = bits >> 62;
    if (mode == 0) fail("a descriptor without swizzle is not emulated");
    row_bytes = mode == 1 ? 128 : mode == 2 ? 64 : 32;
    if ((bits >> 49 & 7) != 0) fail("a descriptor with a base offset is not emulated");
  }

  [[nodiscard]] std::uint32_t address(unsigned row, unsigned k) const {
    const unsigned atom = row_bytes / 2;  // Elements of a row.
    const std::uint32_t offset =
        transposed ? row % atom * 2 + row / atom * next + k % 8 * row_bytes + k / 8 * stride
                   : row / 8 * stride + row % 8 * row_bytes + k * 2;
    return swizzle(start + offset, row_bytes);
  }
};

}  // namespace

void multiply_now(const Block& block, unsigned warp, const WarpProduct& product) {
  constexpr unsigned kK = 16, kWarpRows = 16;
  const Operand b(product.b, product.transposed_b);
  Block& memory = const_cast<Block&>(block);
  const auto element = [&](const Operand& operand, unsigned row, unsigned k) {
    std::uint16_t bits;
    std::memcpy(&bits, memory.at(operand.address(row, k), 2), 2);
    return product.to_float(bits);
  };
  std::array<std::array<float, kK>, kWarpRows> left;
  if (product.registers[0] != nullptr) {  // As mma.m16n8k16 has it.
    for (unsigned r = 0; r < kWarpRows; ++r)
      for (unsigned k = 0; k < kK; ++k)
        left[r][k] = product.to_float(static_cast<std::uint16_t>(
            product.registers[r % 8 * 4 + k % 8 / 2][r / 8 + k / 8 * 2] >> (k % 2 * 16)));
  } else {
    const Operand a(product.a, product.transposed_a);
    for (unsigned r = 0; r < kWarpRows; ++r)
      for (unsigned k = 0; k < kK; ++k) left[r][k] = element(a, warp % 4 * kWarpRows + r, k);
  }
  for (unsigned column = 0; column < static_cast<unsigned>(product.columns); ++column) {
    std::array<float, kK> right;
    for (unsigned k = 0; k < kK; ++k) right[k] = element(b, column, k);
    for (unsigned r = 0; r < kWarpRows; ++r) {
      const unsigned lane = r % 8 * 4 + column % 8 / 2;
      float& sum = product.sums[lane][column / 8 * 4 + r / 8 * 2 + column % 2];
      for (unsigned k = 0; k < kK; ++k) sum += left[r][k] * right[k];
    }
  }
}

float from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}
float from_f16(std::uint16_t bits) {
  return rarefy::to_float(std::bit_cast<rarefy::Float16>(bits));
}
std::uint16_t to_bf16(float value) {
  std::uint16_t bits;
  rarefy::convert_elements(&value, rarefy::DType::kF32, &bits, rarefy::DType::kBF16, 1);
  return bits;
}
std::uint16_t to_f16(float value) {
  std::uint16_t bits;
  rarefy::convert_elements(&value, rarefy::DType::kF32, &bits, rarefy::DType::kF16, 1);
  return bits;
}

std::vector<Instance>& instances() {
  static std::vector<Instance> all;
  return all;
}

}  // namespace emulator
