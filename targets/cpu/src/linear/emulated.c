// Calls one kernel in an emulator, without a C library, which need not be at hand for the architecture.
//
// On stdin: the address of the kernel, four dims, begin, end, the number of arguments, then of each its length and its bytes; all numbers are
// 64 bits. For an argument that is an earlier one once more: -1 minus its number, and no bytes. On stdout: the bytes of all arguments afterwards. An argument ends where a page begins that cannot be touched.

typedef unsigned char byte;
typedef long number;

typedef void kernel(void *const *args, const number *dims, number begin, number end);

enum { READ = 63, WRITE = 64, EXIT = 93, MPROTECT = 226, PAGE = 4096, ARGUMENTS = 16 };

static byte memory[256 << 20] __attribute__((aligned(PAGE)));

static number system_call(number what, number a, number b, number c) {
    register number x8 __asm__("x8") = what, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
}

static void transfer(number what, int file, void *bytes, number length) {
    for (number done = 0; done < length;) {
        number more = system_call(what, file, (number)bytes + done, length - done);
        if (more <= 0) system_call(EXIT, 1, 0, 0);
        done += more;
    }
}

void _start(void) {
    number head[8], lengths[ARGUMENTS];
    void *args[ARGUMENTS];
    byte *next = memory;
    transfer(READ, 0, head, sizeof head);
    for (int i = 0; i < head[7]; i++) {
        transfer(READ, 0, &lengths[i], sizeof lengths[i]);
        if (lengths[i] < 0) {
            args[i] = args[-1 - lengths[i]];
            continue;
        }
        number pages = (lengths[i] + PAGE - 1) / PAGE * PAGE;
        if (next + pages + PAGE > memory + sizeof memory) system_call(EXIT, 2, 0, 0);
        args[i] = next + pages - lengths[i];
        transfer(READ, 0, args[i], lengths[i]);
        system_call(MPROTECT, (number)next + pages, PAGE, 0);
        next += pages + PAGE;
    }
    ((kernel *)head[0])(args, head + 1, head[5], head[6]);
    for (int i = 0; i < head[7]; i++)
        if (lengths[i] > 0) transfer(WRITE, 1, args[i], lengths[i]);
    system_call(EXIT, 0, 0, 0);
}
