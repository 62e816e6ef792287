//! Examples of each command, and explanations of the words in its output. `--help` prints these sections, and the
//! manual pages contain them.
//!
//! Format of these texts: a line without indentation that ends with a colon begins a section. A line that is indented
//! by two spaces begins an entry of the section. Lines that are indented by six spaces describe the entry.

/// Sections that `qus --help` prints after the options.
pub const QUS: &str = "\
Terms:
  interpreter
      A program that runs foreign programs, usually an emulator of QEMU.
  handler
      An entry of binfmt_misc: the kernel starts the interpreter of the handler
      for each file that matches.
  probe
      A tiny foreign program. The kernel executes it to verify a handler.
  instance
      A table of handlers. Since Linux 6.7 a user namespace can have its own.

Examples:
  sudo qus register --fetch arm aarch64
      Downloads both emulators, registers and verifies them.
  qus doctor
      Reports what is wrong on this machine, with commands that fix it.

Exit status:
  0
      Success.
  1
      A verification failed, or `which` or `doctor` found a problem.
  2
      An error.
  other
      `qus run` exits with the status of the program, or with 125 to 127.

ARCH is any common name: QEMU's, uname -m, Debian's, Docker's
(linux/arm/v7), Go's, Rust's, Nix's.";

/// Sections that `qus register --help` prints after the options.
pub const REGISTER: &str = "\
Examples:
  sudo qus register --fetch arm aarch64
      Downloads missing emulators, registers and verifies both.
  sudo qus register --persist all
      Registers every emulator that is installed, now and at every boot.

Presets:
  ape
      Actually Portable Executables, with Cosmopolitan's loader `ape`.
  jar
      Files with the extension jar, with `jexec` of a Java runtime.
  wasm32-wasi
      WebAssembly modules, with wasmtime, wasmer, wasmedge or iwasm.

Outcomes:
  registered
      The handler is new.
  replaced
      The handler replaced a broken one, or with --replace a working one.
      A working handler stayed registered until the new one was verified.
  unchanged
      The same handler was registered already.
  existing
      Another tool's handler works, and was left in place.
  native
      The host runs these programs without a handler.
  refused
      The handler would be unsafe on this host.
  conflict
      A handler that is not QEMU's for this architecture takes these
      programs, and was left in place.
  missing
      No interpreter was found.
  verification failed
      The probe failed. The previous state was restored.
  failed
      The kernel or the system refused an operation.";

/// Sections that `qus list --help` prints after the options.
pub const LIST: &str = "\
Examples:
  qus list --probe -v
      Executes a probe through each, and prints who registered it.
  qus list arm64 'python*'
      Lists the handlers of an architecture, and those with such names.

States:
  enabled
      The kernel uses the handler.
  disabled
      The kernel ignores the handler until it is enabled.
  missing
      The rule is configured in binfmt.d, but not registered.
  differs
      The handler differs from its configuration in binfmt.d.";

/// Sections that `qus reset --help` prints after the options.
pub const RESET: &str = "\
Examples:
  sudo qus reset --persist arm
      Removes the handler of arm, and the file that registers it at boot.
  sudo qus reset jar
      Removes the handler called jar, whichever tool registered it.

Outcomes:
  removed
      The handler or the file was removed.
  edited
      The file was edited after qus wrote it, and was left in place.
  failed
      The handler or the file could not be removed.";

/// Sections that `qus verify --help` prints after the options.
pub const VERIFY: &str = "\
Examples:
  qus verify
      Tests the handlers of all architectures.
  qus verify linux/arm64 && docker build --platform linux/arm64 .
      Builds only if programs of arm64 run.

States:
  working
      The probe ran through the handler.
  native
      The host runs these programs without a handler.
  broken
      The probe or another check failed. The reason is printed.
  unverified
      No other fault was found, but qus has no probe for such files. The exit
      status is 2.";

/// Sections that `qus which --help` prints after the options.
pub const WHICH: &str = "\
Examples:
  qus which ./program
      Explains how the kernel runs the program, or why it does not.
  find rootfs -type f -perm /111 -print0 | qus which --files0-from -
      Explains every executable file below a directory.";

/// Sections that `qus run --help` prints after the options.
pub const RUN: &str = "\
Examples:
  qus run ./program
      Runs a program of another architecture, without root.
  qus run --root rootfs --as-root -- /bin/sh
      Starts a shell in a root directory of another architecture.";

/// Sections that `qus doctor --help` prints after the options.
pub const DOCTOR: &str = "\
Examples:
  qus doctor
      Prints problems, notes, and commands that fix them.
  qus doctor --no-verify --json
      Executes nothing, and prints one JSON object.";

/// Sections that `qus fetch --help` prints after the options.
pub const FETCH: &str = "\
Examples:
  sudo qus fetch arm aarch64
      Downloads the package of the distribution, and unpacks two emulators.
  sudo qus fetch --prune
      Removes fetched emulators that no handler uses.";

/// Sections that `qus bundle --help` prints after the options.
pub const BUNDLE: &str = "\
Examples:
  qus bundle -o qus-arm arm aarch64
      Writes an executable that registers both on any host of this CPU.
  qus bundle --from qemu-user-static.deb -o qus-all all
      Gets the emulators from a package.";

/// Sections that `qus enable --help` prints after the options.
pub const ENABLE: &str = "\
Examples:
  sudo qus enable arm
      Enables the handlers of arm.
  sudo qus enable jar 'python*'
      Enables handlers of other tools by their names.";

/// Sections that `qus disable --help` prints after the options.
pub const DISABLE: &str = "\
Examples:
  sudo qus disable arm
      Disables the handlers of arm. They stay registered.
  sudo qus disable jar 'python*'
      Disables handlers of other tools by their names.";

/// Sections that `qus show --help` prints after the options.
pub const SHOW: &str = "\
Examples:
  qus show
      Prints every architecture with its names.
  qus show arm64 riscv64
      Prints names, magic and mask of two architectures.";

/// Sections that `qus completions --help` prints after the options.
pub const COMPLETIONS: &str = "\
Examples:
  eval \"$(qus completions bash)\"
      Enables completion in the current shell.
  qus completions zsh > _qus
      Writes the file. Move it to a directory of $fpath.";

/// Sections that `qus man --help` prints after the options.
pub const MAN: &str = "\
Examples:
  qus man | man -l -
      Shows the manual page of qus.
  mkdir -p man1 && qus man -o man1
      Writes the pages of all commands.";

/// Sections that `qus export --help` prints after the options.
pub const EXPORT: &str = "\
Examples:
  qus export -f systemd -o etc/binfmt.d arm aarch64
      Writes files for systemd-binfmt.
  qus export -f register --interpreter-path '/usr/bin/qemu-{arch}' arm
      Prints lines that a script can write to
      /proc/sys/fs/binfmt_misc/register.";

/// Sections that `qus apply --help` prints after the options.
pub const APPLY: &str = "\
Examples:
  sudo qus apply
      Registers every rule of binfmt.d.
  sudo qus apply -n /etc/binfmt.d/jar.conf
      Prints what would be done for one file.

Outcomes:
  registered
      The rule is new.
  replaced
      The handler differed from the rule, and was replaced.
  unchanged
      The same handler was registered already.
  superseded
      A later rule has the same name.
  refused
      The rule would be unsafe on this host.
  failed
      The kernel refused the rule.";
