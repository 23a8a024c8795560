// Runs the `rarefy` program as a script would, with its own cache folder.
#pragma once

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "base/json.h"

namespace rarefy::testing {

struct Outcome {
  int status = 0;
  std::string out, err;
  [[nodiscard]] Json json() const { return Json::parse(out); }
};

/// A folder for one test, gone afterwards.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "rarefy-test-XXXXXX").string();
    if (mkdtemp(name.data()) != nullptr) path_ = name;
  }
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  [[nodiscard]] std::string operator/(const std::string& name) const {
    return (path_ / name).string();
  }

 private:
  std::filesystem::path path_;
};

inline std::string read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

/// `arguments` is a shell line; standard output and error come back apart.
/// @param before what stands before the program: "env NAME=value "
inline Outcome run_rarefy(const std::string& arguments, const std::string& before = "") {
  const ScratchFolder scratch;
  const std::string out = scratch / "out";
  const std::string err = scratch / "err";
  const std::string command =
      before + RAREFY_BINARY + " " + arguments + " >" + out + " 2>" + err + " </dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_all(out),
          read_all(err)};
}

}  // namespace rarefy::testing
