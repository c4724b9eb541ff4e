// Plays recorded launches again, under a sanitizer that does not load into a Python, and compares:
//   replay RECORDING LIBRARY...
// Each library is a build of host_build.cpp and gets a thread, which runs its share of the tiles at
// the same time as the others: two copies of a block of threads are two blocks of a GPU's grid, the
// CPU meaning named twice is its launcher with two threads. recording.py describes the file. Prints
// the number and name of each launch, then what differs. Exits with 0, 1 where something differs,
// 2 where it cannot run; a sanitizer has exit codes of its own.
#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

// Sums of floats come out in another order, or with another rounding of products: this share of the
// largest number of a tensor. Everything else has to be equal to the bit.
constexpr double TOLERANCE = 1e-4;

[[noreturn]] void give_up(const std::string& why) {
  std::fprintf(stderr, "replay: %s\n", why.c_str());
  std::exit(2);
}

struct Reader {
  std::FILE* file;

  void bytes(void* to, size_t count) {
    if (count && std::fread(to, 1, count, file) != count) give_up("the recording is cut short");
  }
  uint64_t number() {
    uint64_t value;
    bytes(&value, sizeof value);
    return value;
  }
  std::vector<char> text(size_t count) {
    std::vector<char> found(count);
    bytes(found.data(), count);
    return found;
  }
};

// Memory of a tensor, alone on the heap, so that a read past its end is one past an allocation's. As
// well aligned as torch's.
struct Freed {
  void operator()(char* memory) const { std::free(memory); }
};
using Block = std::unique_ptr<char, Freed>;

Block block_of(const std::vector<char>& content) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, content.size())) give_up("no memory");
  if (!content.empty()) std::memcpy(memory, content.data(), content.size());
  return Block(static_cast<char*>(memory));
}

struct Library {
  const void* (*find)(const char* name);
  size_t (*size)(const void* kernel);
  void (*launch)(const void* kernel, const void* body, int width, int height, int owned, int part,
                 int parts);
};

template <class Function>
void look_up(void* library, const char* name, Function*& to) {
  to = reinterpret_cast<Function*>(dlsym(library, name));
  if (!to) give_up(std::string("no function ") + name);
}

Library open_library(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) give_up(dlerror());
  Library found;
  look_up(library, "polyfield_find", found.find);
  look_up(library, "polyfield_size", found.size);
  look_up(library, "polyfield_launch_part", found.launch);
  return found;
}

// Whether number i of two tensors is the same, for numbers of a type, but for TOLERANCE.
template <class Number>
class Numbers {
 public:
  Numbers(const char* got, const std::vector<char>& expected)
      : a(expected.size() / sizeof(Number)), b(a.size()) {
    std::memcpy(a.data(), got, a.size() * sizeof(Number));
    std::memcpy(b.data(), expected.data(), b.size() * sizeof(Number));
    for (Number v : b)
      if (std::isfinite(v)) largest = std::fmax(largest, std::fabs((double)v));
  }
  size_t count() const { return a.size(); }
  bool same(size_t i) const {
    const bool same_bits = !std::memcmp(&a[i], &b[i], sizeof(Number));
    return same_bits || std::fabs((double)a[i] - b[i]) <= TOLERANCE * largest;  // not of a NaN
  }

 private:
  std::vector<Number> a, b;
  double largest = 0;
};

template <class Compared>
size_t differing(const Compared& compared, size_t& where) {
  size_t count = 0;
  for (size_t i = 0; i < compared.count(); ++i)
    if (!compared.same(i) && !count++) where = i;
  return count;
}

struct Bytes {
  const char* got;
  const std::vector<char>& expected;
  size_t count() const { return expected.size(); }
  bool same(size_t i) const { return got[i] == expected[i]; }
};

// How many numbers of a tensor are not what the recorded launch left; the first goes to `where`.
// width: of a floating number, 4 or 8 bytes; 0 for all else.
size_t differing(const char* got, const std::vector<char>& expected, uint64_t width, size_t& where) {
  if (width == sizeof(float)) return differing(Numbers<float>(got, expected), where);
  if (width == sizeof(double)) return differing(Numbers<double>(got, expected), where);
  return differing(Bytes{got, expected}, where);
}

bool replay_one(Reader& in, const std::vector<Library>& libraries, int number) {
  const std::vector<char> spelled = in.text(in.number());
  const std::string name(spelled.begin(), spelled.end());
  const int width = (int)in.number(), height = (int)in.number(), owned = (int)in.number();
  std::vector<char> body = in.text(in.number());
  std::vector<Block> blocks;
  std::vector<std::vector<char>> after;
  std::vector<uint64_t> widths;
  for (uint64_t count = in.number(); count; --count) {
    widths.push_back(in.number());
    const size_t size = in.number();
    blocks.push_back(block_of(in.text(size)));
    after.push_back(in.text(size));
  }
  for (uint64_t count = in.number(); count; --count) {
    const uint64_t offset = in.number(), block = in.number();
    if (offset + sizeof(char*) > body.size() || block >= blocks.size()) give_up("not a recording");
    char* const address = blocks[block].get();
    std::memcpy(body.data() + offset, &address, sizeof address);
  }
  std::fprintf(stderr, "launch %d: %s\n", number, name.c_str());
  std::vector<std::thread> players;
  const int parts = (int)libraries.size();
  for (int part = 0; part < parts; ++part) {
    const Library& library = libraries[part];
    const void* kernel = library.find(name.c_str());
    if (!kernel) give_up("no kernel " + name);
    if (library.size(kernel) != body.size()) give_up(name + ": arguments of another size");
    players.emplace_back([&body, &library, kernel, width, height, owned, part, parts] {
      library.launch(kernel, body.data(), width, height, owned, part, parts);
    });
  }
  for (std::thread& player : players) player.join();
  bool good = true;
  for (size_t i = 0; i < blocks.size(); ++i) {
    size_t where = 0;
    const size_t count = differing(blocks[i].get(), after[i], widths[i], where);
    if (!count) continue;
    std::fprintf(stderr, "DIFFERS: %s: tensor %zu: %zu %s, the first at %zu\n", name.c_str(), i, count,
                 widths[i] ? "numbers" : "bytes", where);
    good = false;
  }
  return good;
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) give_up("expected a recording and a library or two");
  std::vector<Library> libraries;
  for (int i = 2; i < count; ++i) libraries.push_back(open_library(words[i]));
  std::FILE* file = std::fopen(words[1], "rb");
  if (!file) give_up(std::string(words[1]) + ": cannot be opened");
  Reader in{file};
  bool good = true;
  int number = 0;
  for (const uint64_t launches = in.number(); (uint64_t)number < launches; ++number)
    good = replay_one(in, libraries, number) && good;
  std::fclose(file);
  return good ? 0 : 1;
}
