// Work in order: streams, events, graphs.
#pragma once

#include <functional>

#include "cuda/abi.h"
#include "cuda/device.h"

namespace rarefy::cuda {

/// A queue of one device's work; owned, or borrowed from whoever made it (PyTorch).
class Stream {
 public:
  explicit Stream(const Device& device = Device::get());
  ~Stream();
  Stream(Stream&& other) noexcept;
  Stream& operator=(Stream&&) = delete;
  static Stream borrow(const Device& device, abi::CUstream handle);

  [[nodiscard]] const Device& device() const { return *device_; }
  [[nodiscard]] abi::CUstream handle() const { return handle_; }
  /// Waits for all work so far; throws what went wrong in it.
  void synchronize() const;
  /// Whether work is recorded into a graph instead of run, by whomever.
  [[nodiscard]] bool recording() const;

 private:
  Stream(const Device& device, abi::CUstream handle, bool owned)
      : device_(&device), handle_(handle), owned_(owned) {}
  const Device* device_;
  abi::CUstream handle_ = nullptr;
  bool owned_ = true;
};

/// A point in a stream that others can wait for, with a time stamp.
class Event {
 public:
  explicit Event(const Device& device = Device::get());
  ~Event();
  Event(Event&& other) noexcept;
  Event& operator=(Event&&) = delete;

  void record(const Stream& stream) const;
  void synchronize() const;
  /// Later work of `stream` starts after what was recorded.
  void block(const Stream& stream) const;
  /// From `start` to this; both must have happened.
  [[nodiscard]] double microseconds_since(const Event& start) const;

 private:
  abi::CUevent handle_ = nullptr;
};

/// Work recorded once and launched as a whole. Memory must not be allocated, nor a stream waited
/// for, while recording.
class Graph {
 public:
  /// Runs `enqueue` while `stream` records instead of running.
  Graph(const Stream& stream, const std::function<void()>& enqueue);
  ~Graph();
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&&) = delete;

  void launch(const Stream& stream) const;

 private:
  abi::CUgraphExec handle_ = nullptr;
};

}  // namespace rarefy::cuda
