// Runs a fuzzer's function without libFuzzer, with any compiler:
//   NAME_replay CORPUS [rounds] [seed]
// Every file of the directory CORPUS, then `rounds` inputs made of them by random
// changes. Round i follows from seed + i, which is printed if it fails;
// NAME_replay CORPUS 1 <that seed> repeats it.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

namespace fs = std::filesystem;

char message[300];
int message_size = 0;

extern "C" void Report(int signal_number) {
  // Nothing is left to do if this fails.
  if (write(STDERR_FILENO, message, static_cast<size_t>(message_size)) < 0) _exit(2);
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

void Run(const std::string& input, const std::string& name) {
  message_size = std::snprintf(message, sizeof(message), "replay: %s\n", name.c_str());
  // A copy of the exact size: reading past it is seen by AddressSanitizer.
  const std::vector<uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

// One to eight changes: a bit, a byte, a number of 4 bytes, a piece cut out,
// doubled, or taken from another input.
std::string Changed(const std::vector<std::string>& corpus, std::mt19937_64& random) {
  std::string bytes = corpus[random() % corpus.size()];
  for (uint64_t left = 1 + random() % 8; left > 0; --left) {
    const size_t at = bytes.empty() ? 0 : random() % bytes.size();
    const size_t length = std::min<size_t>(bytes.size() - at, 1 + random() % 24);
    constexpr uint32_t kNumbers[] = {0, 1, 0x7f, 0x80, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff};
    switch (random() % 7) {
      case 0:
        if (!bytes.empty()) bytes[at] ^= static_cast<char>(1 << random() % 8);
        break;
      case 1:
        if (!bytes.empty()) bytes[at] = static_cast<char>(random());
        break;
      case 2: {
        const uint32_t number = kNumbers[random() % std::size(kNumbers)];
        const std::string text(reinterpret_cast<const char*>(&number), sizeof(number));
        bytes.replace(at, std::min(sizeof(number), bytes.size() - at), text);
        break;
      }
      case 3:
        bytes.erase(at, length);
        break;
      case 4:
        bytes.insert(at, bytes.substr(at, length));
        break;
      case 5: {
        const std::string& other = corpus[random() % corpus.size()];
        if (!other.empty()) bytes.insert(at, other.substr(random() % other.size(), length));
        break;
      }
      default:
        bytes.resize(at);
    }
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s CORPUS [rounds] [seed]\n", argv[0]);
    return 2;
  }
  const unsigned long rounds = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 20000;
  const unsigned long seed = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 1;
  for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) signal(number, Report);
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(argv[1])) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<std::string> corpus;
  for (const fs::path& path : files) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    Run(corpus.back(), path.string());
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "replay: %s is empty\n", argv[1]);
    return 2;
  }
  for (unsigned long round = seed; round < seed + rounds; ++round) {
    std::mt19937_64 random(round);
    Run(Changed(corpus, random), "seed " + std::to_string(round));
  }
  std::printf("%zu files, %lu rounds from seed %lu\n", corpus.size(), rounds, seed);
}
