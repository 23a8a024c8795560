// What people see: tables that align, sizes that read, a progress bar that leaves no trace.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "rarefy/progress.h"

namespace rarefy::cli {

bool stderr_is_terminal();
bool stdout_is_terminal();

/// Columns that UTF-8 text takes on a terminal: its code points (we print no wide characters).
std::size_t columns_of(std::string_view text);

std::string human_bytes(double bytes);  ///< "5.3 MiB"
std::string human_count(double count);  ///< "1.24 B", "2.8 M"
std::string human_time_us(double us);   ///< "812 us", "3.1 ms"
std::string percent(double share, int digits = 1);

/// Rows of text, printed as an aligned table, Markdown or CSV. Columns whose cells all start like
/// numbers align right.
class Table {
 public:
  explicit Table(std::vector<std::string> header);
  void add(std::vector<std::string> row);
  [[nodiscard]] std::string text() const;
  [[nodiscard]] std::string markdown() const;
  [[nodiscard]] std::string csv() const;

 private:
  [[nodiscard]] std::vector<std::size_t> widths() const;
  [[nodiscard]] std::vector<bool> numeric() const;
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

/// One line on stderr, redrawn at most ten times a second and wiped when the work is done.
class TerminalProgress final : public Progress {
 public:
  ~TerminalProgress() override;
  void update(std::string_view what, std::int64_t done, std::int64_t total,
              std::string_view detail) override;
  void clear();  ///< Wipes the line, so that other text may follow.

 private:
  std::chrono::steady_clock::time_point started_, drawn_;
  std::string what_;
  bool visible_ = false;
};

/// The one that this process draws.
TerminalProgress& terminal_progress();

}  // namespace rarefy::cli
