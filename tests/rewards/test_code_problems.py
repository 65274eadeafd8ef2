"""code on problems as data sets have them, each with a program that is right and programs that are not."""

import sys
from typing import Any, NamedTuple

import programs
import pytest

from rewards import REWARDS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="programs run on Unix")


class Problem(NamedTuple):
    tests: Any
    right: str
    wrong: list[str]
    entry_point: str | None = None
    needs: str = ""


def printed(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"input": given, "output": wanted} for given, wanted in pairs]


PROBLEMS = {
    "MBPP, statements": Problem(
        [
            'assert remove_Occ("hello","l") == "heo"',
            'assert remove_Occ("abcda","a") == "bcd"',
            'assert remove_Occ("PHP","P") == "H"',
        ],
        "def remove_Occ(s, ch):\n"
        "    i, j = s.find(ch), s.rfind(ch)\n"
        "    return s if i < 0 else s[:i] + s[i + 1:] if i == j else s[:i] + s[i + 1:j] + s[j + 1:]",
        ["def remove_Occ(s, ch):\n    return s.replace(ch, '', 1)", "def remove_Occ(s, ch):\n    return s"],
    ),
    "MBPP, a function named as a builtin": Problem(
        ["assert sum(10,15) == 6", "assert sum(100,150) == 93", "assert sum(4,6) == 3"],
        "def sum(a, b):\n    s = 0\n    for i in range(1, min(a, b)):\n"
        "        if a % i == 0 and b % i == 0:\n            s += i\n    return s",
        ["def sum(a, b):\n    return 6", "def total(a, b):\n    return 6"],
    ),
    "MBPP, tuples, sets and floats": Problem(
        [
            "assert set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))",
            "import math\nassert math.isclose(volume_sphere(10), 4188.790204786391, rel_tol=0.001)",
        ],
        "import math\ndef similar_elements(a, b):\n    return tuple(set(a) & set(b))\n"
        "def volume_sphere(r):\n    return 4 / 3 * math.pi * r ** 3",
        [
            "import math\ndef similar_elements(a, b):\n    return tuple(set(a) | set(b))\n"
            "def volume_sphere(r):\n    return 4 / 3 * math.pi * r ** 3",
            "def similar_elements(a, b):\n    return (4, 5)\ndef volume_sphere(r):\n    return float('nan')",
        ],
    ),
    "HumanEval 0": Problem(
        "METADATA = {'author': 'jt', 'dataset': 'test'}\n\n\ndef check(candidate):\n"
        "    assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.3) == True\n"
        "    assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.05) == False\n"
        "    assert candidate([1.0, 2.0, 5.9, 4.0, 5.0], 0.95) == True\n",
        "from typing import List\n\ndef has_close_elements(numbers: List[float], threshold: float) -> bool:\n"
        "    n = sorted(numbers)\n    return any(b - a < threshold for a, b in zip(n, n[1:]))",
        ["def has_close_elements(n, t):\n    return any(abs(b - a) < t for a, b in zip(n, n[1:]))"],
        entry_point="has_close_elements",
    ),
    "HumanEval 4, a tolerance": Problem(
        "def check(candidate):\n    assert abs(candidate([1.0, 2.0, 3.0]) - 2.0/3.0) < 1e-6\n"
        "    assert abs(candidate([1.0, 2.0, 3.0, 4.0]) - 1.0) < 1e-6\n",
        "def mad(x):\n    m = sum(x) / len(x)\n    return sum(abs(v - m) for v in x) / len(x)",
        ["def mad(x):\n    return 0.66", "def mad(x):\n    return float('nan')", "def mad(x):\n    pass"],
        entry_point="mad",
    ),
    "HumanEval 32, random inputs and a helper of the prompt": Problem(
        "def check(candidate):\n    import math\n    import random\n    rng = random.Random(42)\n"
        "    import copy\n    for _ in range(20):\n        ncoeff = 2 * rng.randint(1, 4)\n"
        "        coeffs = []\n        for _ in range(ncoeff):\n            coeff = rng.randint(-10, 10)\n"
        "            if coeff == 0:\n                coeff = 1\n            coeffs.append(coeff)\n"
        "        solution = candidate(copy.deepcopy(coeffs))\n"
        "        assert math.fabs(poly(coeffs, solution)) < 1e-4\n",
        "import math\ndef poly(xs, x):\n    return sum(c * math.pow(x, i) for i, c in enumerate(xs))\n"
        "def find_zero(xs):\n    a, b = -1.0, 1.0\n    while poly(xs, a) * poly(xs, b) > 0:\n        a *= 2\n"
        "        b *= 2\n    while b - a > 1e-10:\n        c = (a + b) / 2\n"
        "        if poly(xs, c) * poly(xs, a) > 0:\n            a = c\n        else:\n            b = c\n"
        "    return a",
        ["import math\ndef poly(xs, x):\n    return sum(c * math.pow(x, i) for i, c in enumerate(xs))\n"
         "def find_zero(xs):\n    return 0.5"],
        entry_point="find_zero",
    ),
    "LeetCode, a method of Solution": Problem(
        "def check(candidate):\n    assert candidate(nums = [2,7,11,15],target = 9) == [0,1]\n"
        "    assert candidate(nums = [3,2,4],target = 6) == [1,2]\n",
        "class Solution:\n    def twoSum(self, nums, target):\n        seen = {}\n"
        "        for i, n in enumerate(nums):\n            if target - n in seen:\n"
        "                return [seen[target - n], i]\n            seen[n] = i",
        ["class Solution:\n    def twoSum(self, nums, target):\n        return [0, 1]"],
        entry_point="Solution().twoSum",
    ),
    "LeetCode, a list in place": Problem(
        ["m = [[1,2,3],[4,5,6],[7,8,9]]\nSolution().rotate(m)\nassert m == [[7,4,1],[8,5,2],[9,6,3]]"],
        "class Solution:\n    def rotate(self, m):\n        m[:] = [list(r) for r in zip(*m[::-1])]",
        ["class Solution:\n    def rotate(self, m):\n        return [list(r) for r in zip(*m[::-1])]"],
    ),
    "a linked list that the tests build": Problem(
        "a = ListNode(1)\na.next = ListNode(2)\na.next.next = ListNode(3)\nr = reverse(a)\nout = []\n"
        "while r:\n    out.append(r.val)\n    r = r.next\nassert out == [3, 2, 1]\n"
        "assert reverse(None) is None",
        "class ListNode:\n    def __init__(self, val, next=None):\n        self.val, self.next = val, next\n"
        "def reverse(head):\n    last = None\n    while head:\n"
        "        head.next, last, head = last, head, head.next\n    return last",
        ["class ListNode:\n    def __init__(self, val, next=None):\n        self.val, self.next = val, next\n"
         "def reverse(head):\n    return head"],
    ),
    "an LRU cache": Problem(
        "def test_lru():\n    c = LRUCache(2)\n    c.put(1, 1)\n    c.put(2, 2)\n    assert c.get(1) == 1\n"
        "    c.put(3, 3)\n    assert c.get(2) == -1\n    assert [c.get(k) for k in (1, 3)] == [1, 3]\n",
        "from collections import OrderedDict\nclass LRUCache:\n    def __init__(self, capacity):\n"
        "        self.d, self.n = OrderedDict(), capacity\n    def get(self, k):\n"
        "        if k not in self.d:\n            return -1\n        self.d.move_to_end(k)\n"
        "        return self.d[k]\n    def put(self, k, v):\n        self.d[k] = v\n"
        "        self.d.move_to_end(k)\n        if len(self.d) > self.n:\n"
        "            self.d.popitem(last=False)",
        ["class LRUCache:\n    def __init__(self, capacity):\n        self.d = {}\n    def get(self, k):\n"
         "        return self.d.get(k, -1)\n    def put(self, k, v):\n        self.d[k] = v"],
    ),
    "pytest, errors of the program's own": Problem(
        "import pytest\nfrom solution import Account, InsufficientFunds\n\n"
        "def test_withdraw():\n    a = Account(10)\n    a.withdraw(4)\n    assert a.balance == 6\n\n"
        "def test_too_much():\n    with pytest.raises(InsufficientFunds, match='10'):\n"
        "        Account(10).withdraw(11)\n\n"
        "@pytest.mark.parametrize('amount', [-1, 0])\ndef test_no_amount(amount):\n"
        "    with pytest.raises(ValueError):\n        Account(10).withdraw(amount)\n",
        "class InsufficientFunds(Exception):\n    pass\nclass Account:\n    def __init__(self, balance):\n"
        "        self.balance = balance\n    def withdraw(self, amount):\n        if amount <= 0:\n"
        "            raise ValueError(amount)\n        if amount > self.balance:\n"
        "            raise InsufficientFunds(f'only {self.balance}')\n        self.balance -= amount",
        ["class InsufficientFunds(Exception):\n    pass\nclass Account:\n    def __init__(self, balance):\n"
         "        self.balance = balance\n    def withdraw(self, amount):\n        self.balance -= amount",
         "class InsufficientFunds(Exception):\n    pass\nclass Account:\n    def __init__(self, balance):\n"
         "        self.balance = balance\n    def withdraw(self, amount):\n        raise ValueError(amount)"],
        needs="pytest",
    ),
    "unittest": Problem(
        "import unittest\nfrom solution import Stack\n\nclass TestStack(unittest.TestCase):\n"
        "    def setUp(self):\n        self.s = Stack()\n    def test_push(self):\n        self.s.push(1)\n"
        "        self.s.push(2)\n        self.assertEqual(self.s.pop(), 2)\n"
        "        self.assertEqual(len(self.s), 1)\n    def test_empty(self):\n"
        "        with self.assertRaises(IndexError):\n            self.s.pop()\n\n"
        "if __name__ == '__main__':\n    unittest.main()\n",
        "class Stack:\n    def __init__(self):\n        self._items = []\n    def push(self, x):\n"
        "        self._items.append(x)\n    def pop(self):\n        return self._items.pop()\n"
        "    def __len__(self):\n        return len(self._items)",
        ["class Stack:\n    def __init__(self):\n        self._items = []\n    def push(self, x):\n"
         "        self._items.append(x)\n    def pop(self):\n        return self._items.pop(0)\n"
         "    def __len__(self):\n        return len(self._items)"],
    ),
    "unittest.main() that is called": Problem(
        "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n"
        "        self.assertAlmostEqual(half(3), 1.5)\nunittest.main()",
        "def half(x):\n    return x / 2",
        ["def half(x):\n    return x // 2", "def half(x):\n    return float('nan')"],
    ),
    "a generator": Problem(
        ["from itertools import islice\nassert list(islice(primes(), 5)) == [2, 3, 5, 7, 11]",
         "g = primes()\nassert next(g) == 2 and next(g) == 3"],
        "def primes():\n    n = 2\n    while True:\n        if all(n % d for d in range(2, n)):\n"
        "            yield n\n        n += 1",
        ["def primes():\n    n = 1\n    while True:\n        n += 1\n        yield n",
         "def primes():\n    return iter([2, 3, 5, 7])"],
    ),
    "a closure, operators and dataclasses": Problem(
        "assert adder(3)(4) == 7\np = Point(1, 2) + Point(3, 4)\nassert (p.x, p.y) == (4, 6)\n"
        "assert p == Point(4, 6) and p != Point(0, 0)\nassert len({Point(1, 1), Point(1, 1)}) == 1\n"
        "assert (p * 2).y == 12 and (-p).x == -4\nassert repr(Point(1, 2)) == 'Point(x=1, y=2)'",
        "from dataclasses import dataclass\ndef adder(n):\n    return lambda x: x + n\n"
        "@dataclass(frozen=True)\nclass Point:\n    x: int\n    y: int\n    def __add__(self, o):\n"
        "        return Point(self.x + o.x, self.y + o.y)\n    def __mul__(self, k):\n"
        "        return Point(self.x * k, self.y * k)\n    def __neg__(self):\n        return self * -1",
        ["from dataclasses import dataclass\ndef adder(n):\n    return lambda x: x + n\n@dataclass\n"
         "class Point:\n    x: int\n    y: int"],
    ),
    "dates, fractions, counts": Problem(
        "from datetime import date\nfrom fractions import Fraction\n"
        "assert due(date(2024, 2, 28)) == date(2024, 2, 29)\nassert third() == Fraction(1, 3)\n"
        "assert words('a b a') == {'a': 2, 'b': 1}",
        "from collections import Counter\nfrom datetime import timedelta\nfrom fractions import Fraction\n"
        "def due(d):\n    return d + timedelta(1)\ndef third():\n    return Fraction(2, 6)\n"
        "def words(s):\n    return Counter(s.split())",
        ["def due(d):\n    return d\ndef third():\n    return 1/3\ndef words(s):\n    return {}"],
    ),
    "numbers of an array": Problem(
        ["assert total([[1, 2], [3, 4]]) == 10", "assert positive(3) is True", "assert mean([1, 2]) == 1.5",
         "assert rows([[1, 2]])[0] == [1, 2]"],
        "import numpy as np\ndef total(m):\n    return np.array(m).sum()\ndef positive(x):\n"
        "    return np.int64(x) > 0\ndef mean(x):\n    return np.mean(x)\ndef rows(m):\n"
        "    return np.array(m).tolist()",
        ["import numpy as np\ndef total(m):\n    return np.array(m).max()\n"
         "def positive(x):\n    return True\ndef mean(x):\n    return 1.5\ndef rows(m):\n    return m"],
        needs="numpy",
    ),
    "stdin, several cases at once": Problem(
        printed(("3\n1 2\n3 4\n5 6\n", "3\n7\n11\n"), ("1\r\n1000000000000000000 1\r\n", f"1{17 * '0'}1")),
        "import sys\ndata = sys.stdin.buffer.read().split()\nn = int(data[0])\n"
        "print('\\n'.join(str(int(data[1 + 2 * i]) + int(data[2 + 2 * i])) for i in range(n)))",
        ["n = int(input())\nfor _ in range(n):\n    a, b = map(int, input().split())\n    print(a - b)",
         "print('3\\n7\\n11')"],
    ),
    "stdin, until it ends": Problem(
        printed(("cat\ndog\n\n", "tac \ngod\n"), ("", "")),
        "while True:\n    try:\n        s = input()\n    except EOFError:\n        break\n    if s:\n"
        "        print(s[::-1])",
        ["import sys\nfor line in sys.stdin:\n    print(line.strip())"],
    ),
    "stdin, a picture": Problem(
        printed(("3\n", "  *\n ***\n*****\n"), ("1\n", "*\n")),
        "n = int(input())\nfor i in range(n):\n    print(' ' * (n - 1 - i) + '*' * (2 * i + 1))",
        ["n = int(input())\nfor i in range(n):\n    print('*' * (2 * i + 1))"],
    ),
    "stdin, numbers with decimals": Problem(
        printed(("3\n1 2 2\n", "1.67\n"), ("2\n1 2\n", "1.50\n")),
        "input()\nx = list(map(int, input().split()))\nprint(round(sum(x) / len(x), 2))",
        ["input()\nx = list(map(int, input().split()))\nprint(sum(x) / len(x))",
         "input()\nx = list(map(int, input().split()))\nprint(sum(x) // len(x))"],
    ),
    "stdin, numbers of thousands of digits": Problem(
        printed(("5000\n", "1" + 5000 * "0")),
        "print(10 ** int(input()))",
        ["print(10 ** int(input()) + 1)"],
    ),
    "stdin, deep recursion": Problem(
        printed(("20000\n", "20000\n")),
        "import sys, threading\nsys.setrecursionlimit(1 << 20)\nthreading.stack_size(1 << 26)\n"
        "def depth(n):\n    return 0 if n == 0 else 1 + depth(n - 1)\n"
        "def main():\n    print(depth(int(input())))\n"
        "t = threading.Thread(target=main)\nt.start()\nt.join()",
        ["def depth(n):\n    return 0 if n == 0 else 1 + depth(n - 1)\nprint(depth(int(input())))"],
    ),
    "stdin, a grid and a search": Problem(
        printed(("3 4\nS..#\n.#.#\n..#E\n", "-1\n"), ("2 3\nS..\n#.E\n", "3\n")),
        "from collections import deque\nimport sys\nlines = open(0).read().split('\\n')\n"
        "h, w = map(int, lines[0].split())\ng = lines[1:h + 1]\n"
        "start = next((i, j) for i in range(h) for j in range(w) if g[i][j] == 'S')\nd = {start: 0}\n"
        "q = deque([start])\nwhile q:\n    i, j = q.popleft()\n    if g[i][j] == 'E':\n"
        "        print(d[i, j])\n        sys.exit()\n"
        "    for a, b in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):\n"
        "        if 0 <= a < h and 0 <= b < w and g[a][b] != '#' and (a, b) not in d:\n"
        "            d[a, b] = d[i, j] + 1\n            q.append((a, b))\nprint(-1)",
        ["print(-1)"],
    ),
}  # fmt: skip


def value(program: str, problem: Problem) -> float | None:
    answer = f"<think>r</think><answer>```python\n{program}\n```</answer>"
    return REWARDS["code"](completions=[answer], tests=[problem.tests], entry_point=[problem.entry_point])[0]


@pytest.mark.parametrize("name", PROBLEMS)
def test_right_programs_pass_and_wrong_ones_do_not(name: str) -> None:
    problem = PROBLEMS[name]
    if problem.needs:
        programs.needs(problem.needs)
    assert value(problem.right, problem) == 1.0
    for wrong in problem.wrong:
        assert value(wrong, problem) == 0.0
