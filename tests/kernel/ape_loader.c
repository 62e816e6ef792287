/* A loader of Actually Portable Executables, for the tests. It reads the ELF header that the script of such a file prints,
   maps the program, and starts it with the arguments from the second one on. */

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static char head[8192 + 1];
	Elf64_Ehdr elf;
	unsigned char *to = (unsigned char *)&elf;
	int fd = argc > 1 ? open(argv[1], O_RDONLY) : -1;

	if (fd < 0 || pread(fd, head, 8192, 0) < 8)
		return 101;
	if (memcmp(head, "MZqFpD='", 8) && memcmp(head, "jartsr='", 8))
		return 102;
	char *text = strstr(head, "printf '");
	if (!text)
		return 103;
	text += strlen("printf '");
	for (unsigned byte, i = 0; i < sizeof elf; i++, text += 4) {
		if (sscanf(text, "\\%3o", &byte) != 1)
			return 104;
		to[i] = byte;
	}
	if (memcmp(elf.e_ident, ELFMAG, SELFMAG))
		return 105;
	long page = sysconf(_SC_PAGESIZE);
	for (int i = 0; i < elf.e_phnum; i++) {
		Elf64_Phdr part;
		if (pread(fd, &part, sizeof part, elf.e_phoff + i * sizeof part) != sizeof part)
			return 106;
		if (part.p_type != PT_LOAD)
			continue;
		long extra = part.p_vaddr % page;
		int protection = (part.p_flags & PF_R ? PROT_READ : 0) | (part.p_flags & PF_X ? PROT_EXEC : 0);
		void *at = (void *)(part.p_vaddr - extra);
		if (mmap(at, part.p_filesz + extra, protection, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd,
			 part.p_offset - extra) != at)
			return 107;
	}
	long *stack = (long *)argv;
	*stack = argc - 1;
#if defined(__x86_64__)
	__asm__ volatile("mov %0, %%rsp; jmp *%1" : : "r"(stack), "r"(elf.e_entry) : "memory");
#elif defined(__aarch64__)
	__asm__ volatile("mov sp, %0; br %1" : : "r"(stack), "r"(elf.e_entry) : "memory");
#endif
	return 108;
}
