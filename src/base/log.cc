#include "rarefy/log.h"

#include <mutex>
#include <utility>

namespace rarefy {
namespace {

std::mutex log_mutex;
LogCallback log_callback;

}  // namespace

void set_log(LogCallback callback) {
  const std::scoped_lock lock(log_mutex);
  log_callback = std::move(callback);
}

bool log_enabled() {
  const std::scoped_lock lock(log_mutex);
  return static_cast<bool>(log_callback);
}

void log_lines(std::string_view text) {
  const std::scoped_lock lock(log_mutex);
  if (!log_callback) return;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    log_callback(text.substr(0, end));
    if (end == std::string_view::npos) return;
    text.remove_prefix(end + 1);
  }
}

}  // namespace rarefy
