#include "cuda/memory.h"

#include <utility>

#include "base/check.h"
#include "cuda/driver.h"

namespace rarefy::cuda {
namespace {

abi::CUresult allocate(const Stream& stream, abi::CUdeviceptr* address, std::size_t bytes) {
  if (stream.device().facts().has_memory_pools)
    return driver().cuMemAllocAsync(address, bytes, stream.handle());
  return driver().cuMemAlloc_v2(address, bytes);
}

}  // namespace

DeviceBuffer::DeviceBuffer(const Stream& stream, std::size_t bytes)
    : device_(&stream.device()), stream_(stream.handle()), size_(bytes) {
  if (bytes == 0) return;
  device_->bind();
  abi::CUresult result = allocate(stream, &address_, bytes);
  if (result == abi::kErrorOutOfMemory) {
    // The pool may hold memory in pieces that do not fit this request.
    stream.synchronize();
    device_->trim_pool();
    result = allocate(stream, &address_, bytes);
  }
  if (result == abi::kErrorOutOfMemory) {
    // What the pool gathered in vain it would keep from everybody else.
    stream.synchronize();
    device_->trim_pool();
    const Device::Memory memory = device_->memory();
    fail(ErrorKind::kOutOfMemory, "GPU {}: {:.1f} MB of memory: {:.1f} of {:.1f} MB are free",
         device_->facts().index, static_cast<double>(bytes) / 1e6,
         static_cast<double>(memory.free) / 1e6, static_cast<double>(memory.total) / 1e6);
  }
  check(result, "allocating {} bytes", bytes);
}

DeviceBuffer::~DeviceBuffer() {
  if (address_ == 0) return;
  // A destructor has nobody to tell; an error here was an error of the work before.
  if (device_->facts().has_memory_pools) {
    driver().cuMemFreeAsync(address_, stream_);
  } else {
    driver().cuMemFree_v2(address_);
  }
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : device_(other.device_),
      stream_(other.stream_),
      address_(std::exchange(other.address_, 0)),
      size_(std::exchange(other.size_, 0)) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(stream_, other.stream_);
  std::swap(address_, other.address_);
  std::swap(size_, other.size_);
  return *this;
}

PinnedBuffer::PinnedBuffer(const Device& device, std::size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  device.bind();
  void* data = nullptr;
  check(driver().cuMemHostAlloc(&data, bytes, 0), "pinning {} bytes of host memory", bytes);
  data_ = static_cast<std::byte*>(data);
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) driver().cuMemFreeHost(data_);
}

PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

void copy_to_device(const Stream& stream, abi::CUdeviceptr to, const void* from,
                    std::size_t bytes) {
  if (bytes == 0) return;
  stream.device().bind();
  check(driver().cuMemcpyHtoDAsync_v2(to, from, bytes, stream.handle()), "copying to the device");
}

void copy_to_host(const Stream& stream, void* to, abi::CUdeviceptr from, std::size_t bytes) {
  if (bytes == 0) return;
  stream.device().bind();
  check(driver().cuMemcpyDtoHAsync_v2(to, from, bytes, stream.handle()), "copying from the device");
}

void copy_on_device(const Stream& stream, abi::CUdeviceptr to, abi::CUdeviceptr from,
                    std::size_t bytes) {
  if (bytes == 0) return;
  stream.device().bind();
  check(driver().cuMemcpyDtoDAsync_v2(to, from, bytes, stream.handle()), "copying on the device");
}

DeviceBuffer copy_on_device(const Stream& stream, const DeviceBuffer& from) {
  DeviceBuffer to(stream, from.size());
  copy_on_device(stream, to.address(), from.address(), from.size());
  return to;
}

void fill_bytes(const Stream& stream, abi::CUdeviceptr to, unsigned char value, std::size_t bytes) {
  if (bytes == 0) return;
  stream.device().bind();
  check(driver().cuMemsetD8Async(to, value, bytes, stream.handle()), "filling device memory");
}

}  // namespace rarefy::cuda
