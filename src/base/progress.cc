#include "rarefy/progress.h"

namespace rarefy {
namespace {
class NoProgress final : public Progress {
 public:
  void update(std::string_view, std::int64_t, std::int64_t, std::string_view) override {}
};
}  // namespace

Progress& no_progress() {
  static NoProgress instance;
  return instance;
}

}  // namespace rarefy
