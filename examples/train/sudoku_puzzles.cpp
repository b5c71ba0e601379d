// Sudoku puzzles with exactly one solution, thousands per second: what sudoku.py trains on.
//
// A puzzle is a random full grid from which cells are taken out in random order, as long as one
// solution remains, until the wanted number of givens is left or no cell can go. It depends on
// the seed and its number alone. ../bench/sudoku_puzzles.py makes the same kind in Python, from
// another random stream.

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <utility>

namespace {

constexpr int kCells = 81;
constexpr uint16_t kAll = 0x1ff;  // a bit per digit

enum Grade : uint8_t { kEasy, kMedium, kHard };  // naked singles, hidden singles too, more

using Cells = std::array<uint8_t, kCells>;  // digits 1 to 9, 0 for a hole

// SplitMix64 (Steele, Lea, Flood 2014): any start value gives a good stream.
struct Random {
    uint64_t state;

    uint64_t next() {
        uint64_t z = state += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return z ^ (z >> 31);
    }

    int below(int bound) { return static_cast<int>((next() >> 32) * bound >> 32); }

    template <typename Values>
    void shuffle(Values& values) {
        for (int last = static_cast<int>(values.size()) - 1; last > 0; --last)
            std::swap(values[last], values[below(last + 1)]);
    }
};

int row(int cell) { return cell / 9; }
int column(int cell) { return cell % 9; }
int box(int cell) { return cell / 27 * 3 + cell % 9 / 3; }

struct Units {  // the 27 units' cells: rows, columns, boxes
    std::array<std::array<uint8_t, 9>, 27> cells{};

    constexpr Units() {
        for (int n = 0; n < 9; ++n)
            for (int i = 0; i < 9; ++i) {
                cells[n][i] = static_cast<uint8_t>(n * 9 + i);
                cells[9 + n][i] = static_cast<uint8_t>(i * 9 + n);
                cells[18 + n][i] = static_cast<uint8_t>(n / 3 * 27 + n % 3 * 3 + i / 3 * 9 + i % 3);
            }
    }
};
constexpr Units kUnits;

struct Board {
    Cells digits{};
    std::array<uint16_t, 9> rows{}, columns{}, boxes{};  // digits that each unit holds

    uint16_t open(int cell) const {
        return kAll & ~(rows[row(cell)] | columns[column(cell)] | boxes[box(cell)]);
    }
    void flip(int cell, uint16_t digit) {
        rows[row(cell)] ^= digit;
        columns[column(cell)] ^= digit;
        boxes[box(cell)] ^= digit;
    }
    void put(int cell, uint16_t digit) {
        flip(cell, digit);
        digits[cell] = static_cast<uint8_t>(__builtin_ctz(digit) + 1);
    }
    uint16_t take(int cell) {
        const auto digit = static_cast<uint16_t>(1 << (digits[cell] - 1));
        flip(cell, digit);
        digits[cell] = 0;
        return digit;
    }
};

// The hole with the fewest open digits; false if there is no hole.
bool tightest_hole(const Board& board, int& cell, uint16_t& open) {
    int fewest = 10;
    for (int i = 0; i < kCells && fewest > 1; ++i) {
        if (board.digits[i]) continue;
        const uint16_t here = board.open(i);
        if (const int count = __builtin_popcount(here); count < fewest) {
            fewest = count;
            cell = i;
            open = here;
        }
    }
    return fewest < 10;
}

// A digit with one place left in a unit; false if there is none.
bool hidden_single(const Board& board, int& cell, uint16_t& digit) {
    for (const auto& unit : kUnits.cells) {
        uint16_t once = 0, twice = 0;
        for (const int i : unit) {
            if (board.digits[i]) continue;
            const uint16_t open = board.open(i);
            twice |= once & open;
            once |= open;
        }
        if (!(once & ~twice)) continue;
        digit = static_cast<uint16_t>(once & ~twice);
        digit &= static_cast<uint16_t>(-digit);
        for (const int i : unit)
            if (!board.digits[i] && board.open(i) & digit) cell = i;
        return true;
    }
    return false;
}

bool solvable(Board& board) {
    int cell = 0;
    uint16_t open = 0;
    if (!tightest_hole(board, cell, open)) return true;
    if (open & (open - 1)) {
        uint16_t digit = 0;
        int place = 0;
        if (hidden_single(board, place, digit)) {
            cell = place;
            open = digit;
        }
    }
    for (; open; open &= open - 1) {
        board.put(cell, open & -open);
        const bool solved = solvable(board);
        board.take(cell);
        if (solved) return true;
    }
    return false;
}

bool fill(Board& board, Random& random) {
    int cell = 0;
    uint16_t open = 0;
    if (!tightest_hole(board, cell, open)) return true;
    std::array<uint16_t, 9> digits{};
    for (int i = 0; i < 9; ++i) digits[i] = static_cast<uint16_t>(1 << i);
    random.shuffle(digits);
    for (const uint16_t digit : digits) {
        if (!(open & digit)) continue;
        board.put(cell, digit);
        if (fill(board, random)) return true;
        board.take(cell);
    }
    return false;
}

// Whether the cell, just emptied of `digit`, can hold another one.
bool ambiguous(Board& board, int cell, uint16_t digit) {
    for (uint16_t others = board.open(cell) & ~digit; others; others &= others - 1) {
        board.put(cell, others & -others);
        const bool second = solvable(board);
        board.take(cell);
        if (second) return true;
    }
    return false;
}

void take_out(Board& board, int target, Random& random) {
    std::array<uint8_t, kCells> order{};
    std::iota(order.begin(), order.end(), uint8_t{0});
    random.shuffle(order);
    int left = kCells;
    for (const int cell : order) {
        if (left == target) return;
        const uint16_t digit = board.take(cell);
        --left;
        if (ambiguous(board, cell, digit)) {
            board.put(cell, digit);
            ++left;
        }
    }
}

Grade grade(Board board) {
    Grade grade = kEasy;
    int cell = 0;
    uint16_t open = 0;
    while (tightest_hole(board, cell, open)) {
        if (open & (open - 1)) {
            if (!hidden_single(board, cell, open)) return kHard;
            grade = kMedium;
        }
        board.put(cell, open);
    }
    return grade;
}

}  // namespace

// Writes the puzzles `first` to `first + count - 1` of a seed: givens and solutions
// [count, 81], 0 for a hole, and grades [count]. The number of givens aimed at is uniform in
// fewest..most. Of `hard_percent` in a hundred puzzles, others than hard ones are thrown away.
extern "C" void make_puzzles(uint64_t seed, uint64_t first, int64_t count, int fewest, int most,
                             int hard_percent, uint8_t* givens, uint8_t* solutions,
                             uint8_t* grades) {
    for (int64_t n = 0; n < count; ++n) {
        Random random{Random{seed}.next() ^ Random{first + static_cast<uint64_t>(n)}.next()};
        const bool want_hard = random.below(100) < hard_percent;
        do {
            Board board;
            fill(board, random);
            std::copy(board.digits.begin(), board.digits.end(), solutions + n * kCells);
            take_out(board, fewest + random.below(most - fewest + 1), random);
            std::copy(board.digits.begin(), board.digits.end(), givens + n * kCells);
            grades[n] = grade(board);
        } while (want_hard && grades[n] != kHard);
    }
}
