// Memory of the device, and memory of the host that the device can reach.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "cuda/abi.h"
#include "cuda/stream.h"

namespace rarefy::cuda {

/// Owned device memory, aligned to 256 bytes, not initialised. It comes from the driver's
/// stream-ordered pool, which keeps freed memory for the next buffer: usable by work that is
/// enqueued on the stream later, freed when the work enqueued so far has run. The stream must
/// outlive the buffer.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  /// Throws `Error` (kOutOfMemory) that says how much is free.
  DeviceBuffer(const Stream& stream, std::size_t bytes);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;

  [[nodiscard]] abi::CUdeviceptr address() const { return address_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  /// As a kernel's argument: `const __half*` on the device.
  template <class T = void>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(
        address_);  // NOLINT(performance-no-int-to-ptr): never followed here.
  }

 private:
  const Device* device_ = nullptr;
  abi::CUstream stream_ = nullptr;
  abi::CUdeviceptr address_ = 0;
  std::size_t size_ = 0;
};

/// Host memory that copies run from at full speed and without waiting.
class PinnedBuffer {
 public:
  explicit PinnedBuffer(const Device& device, std::size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&&) = delete;

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Copies, in the order of `stream`. Pageable host memory is read before the call returns; host
/// memory that is written to is complete after stream.synchronize().
void copy_to_device(const Stream& stream, abi::CUdeviceptr to, const void* from, std::size_t bytes);
void copy_to_host(const Stream& stream, void* to, abi::CUdeviceptr from, std::size_t bytes);
void copy_on_device(const Stream& stream, abi::CUdeviceptr to, abi::CUdeviceptr from,
                    std::size_t bytes);
/// A buffer of its own with the same contents.
DeviceBuffer copy_on_device(const Stream& stream, const DeviceBuffer& from);
void fill_bytes(const Stream& stream, abi::CUdeviceptr to, unsigned char value, std::size_t bytes);

/// A buffer with these contents.
template <class T>
DeviceBuffer upload(const Stream& stream, std::span<const T> values) {
  DeviceBuffer buffer(stream, values.size_bytes());
  copy_to_device(stream, buffer.address(), values.data(), values.size_bytes());
  return buffer;
}

/// The contents of a buffer; waits for the stream.
template <class T>
std::vector<T> download(const Stream& stream, const DeviceBuffer& buffer) {
  std::vector<T> values(buffer.size() / sizeof(T));
  copy_to_host(stream, values.data(), buffer.address(), values.size() * sizeof(T));
  stream.synchronize();
  return values;
}

}  // namespace rarefy::cuda
