#include "cuda/stream.h"

#include <utility>

#include "cuda/driver.h"

namespace rarefy::cuda {

Stream::Stream(const Device& device) : device_(&device) {
  device.bind();
  // Not ordered with the legacy default stream, which others in the process may use.
  check(driver().cuStreamCreate(&handle_, abi::kStreamNonBlocking), "new stream");
}

Stream::~Stream() {
  if (owned_ && handle_ != nullptr) driver().cuStreamDestroy_v2(handle_);
}

Stream::Stream(Stream&& other) noexcept
    : device_(other.device_),
      handle_(std::exchange(other.handle_, nullptr)),
      owned_(other.owned_) {}

Stream Stream::borrow(const Device& device, abi::CUstream handle) {
  return {device, handle, false};
}

void Stream::synchronize() const {
  device_->bind();
  check(driver().cuStreamSynchronize(handle_), "waiting for GPU {}", device_->facts().index);
}

bool Stream::recording() const {
  int status = abi::kCaptureNone;
  check(driver().cuStreamIsCapturing(handle_, &status), "state of a stream");
  return status != abi::kCaptureNone;
}

Event::Event(const Device& device) {
  device.bind();
  check(driver().cuEventCreate(&handle_, abi::kEventDefault), "new event");
}

Event::~Event() {
  if (handle_ != nullptr) driver().cuEventDestroy_v2(handle_);
}

Event::Event(Event&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}

void Event::record(const Stream& stream) const {
  check(driver().cuEventRecord(handle_, stream.handle()), "recording an event");
}

void Event::synchronize() const {
  check(driver().cuEventSynchronize(handle_), "waiting for an event");
}

void Event::block(const Stream& stream) const {
  check(driver().cuStreamWaitEvent(stream.handle(), handle_, 0), "waiting for an event");
}

double Event::microseconds_since(const Event& start) const {
  float milliseconds = 0;
  check(driver().cuEventElapsedTime(&milliseconds, start.handle_, handle_), "reading a timer");
  return static_cast<double>(milliseconds) * 1e3;
}

Graph::Graph(const Stream& stream, const std::function<void()>& enqueue) {
  stream.device().bind();
  check(driver().cuStreamBeginCapture_v2(stream.handle(), abi::kCaptureModeThreadLocal),
        "recording a graph");
  abi::CUgraph graph = nullptr;
  try {
    enqueue();
  } catch (...) {
    driver().cuStreamEndCapture(stream.handle(), &graph);
    if (graph != nullptr) driver().cuGraphDestroy(graph);
    throw;
  }
  check(driver().cuStreamEndCapture(stream.handle(), &graph), "recording a graph");
  const abi::CUresult result = driver().cuGraphInstantiateWithFlags(&handle_, graph, 0);
  driver().cuGraphDestroy(graph);
  check(result, "building a graph");
}

Graph::~Graph() {
  if (handle_ != nullptr) driver().cuGraphExecDestroy(handle_);
}

Graph::Graph(Graph&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}

void Graph::launch(const Stream& stream) const {
  check(driver().cuGraphLaunch(handle_, stream.handle()), "launching a graph");
}

}  // namespace rarefy::cuda
