//! [`qus::handler::predict`] compared with `execve(2)`: random rules and random files.
//!
//! Every file has a name with its own first letter, and every program of this host is a probe, which ends with the
//! first byte of its `argv[0]`. So the exit status identifies the interpreter that ran.
//!
//! `QUS_TEST_CASES` is the number of files that are started, and `QUS_TEST_SEED` is the random seed.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use goblin::elf::program_header::PT_INTERP;
use nix::mount::{MsFlags, mount};
use qus::arch::{ARCHES, Arch};
use qus::binfmt::instance::Instance;
use qus::binfmt::{HEADER_LEN, Handler, first_match};
use qus::handler::exec_target::ExecTarget;
use qus::handler::predict::{End, Prediction, Step, Table};
use qus::probe::{Variant, image};

use crate::lab::Lab;
use crate::namespace::INSTANCE;
use crate::programs::host;
use crate::starter::start;

/// Number of files in one world.
const FILES: usize = 10;
/// Number of files that are started without `QUS_TEST_CASES`.
const CASES: usize = 4000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    /// Returns true in `percent` of 100 cases.
    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |value| value.parse().unwrap())
}

kernel_test!(predictions_are_what_execve_does, alone);
fn predictions_are_what_execve_does(lab: &Lab) {
    let seed = number("QUS_TEST_SEED", 1);
    let cases = number("QUS_TEST_CASES", CASES);
    let mut random = Random(seed as u64);
    let (mut done, mut started) = (0, 0);
    let root = prepare(lab);
    while done < cases {
        let world = World::new(lab, &root, &mut random);
        for file in &world.files {
            started += usize::from(world.compare(file).unwrap_or_else(|difference| {
                panic!("seed {seed}, case {done}, {}:\n{difference}\n{}", file.display(), world.describe());
            }));
            done += 1;
        }
    }
    // Both outcomes must be frequent, or else the comparison has little value.
    assert!(started * 10 > done && (done - started) * 10 > done, "{started} of {done} were started");
}

/// Creates the directory of all worlds and its fixed content, makes it the current directory, and returns it.
fn prepare(lab: &Lab) -> PathBuf {
    let root = lab.path("world");
    fs::create_dir_all(&root).unwrap();
    let tmpfs = |at: &Path, flags| mount(Some("none"), at, Some("tmpfs"), flags, None::<&str>).unwrap();
    tmpfs(&root, MsFlags::empty());
    std::env::set_current_dir(&root).unwrap();
    fs::create_dir("zdir").unwrap();
    fs::create_dir("ynoexec").unwrap();
    tmpfs(&root.join("ynoexec"), MsFlags::MS_NOEXEC);
    symlink("xloop", "xloop").unwrap();
    root
}

/// Random files and rules.
struct World<'a> {
    lab: &'a Lab,
    root: &'a Path,
    files: Vec<PathBuf>,
    /// Programs that this host runs natively.
    natives: Vec<Vec<u8>>,
    handlers: Vec<Handler>,
    enabled: bool,
}

impl<'a> World<'a> {
    fn new(lab: &'a Lab, root: &'a Path, random: &mut Random) -> Self {
        let natives = vec![native(2), native(3)];
        let mut world = Self { lab, root, files: Vec::new(), natives, handlers: Vec::new(), enabled: true };
        let names: Vec<PathBuf> = (b'a'..).take(FILES).map(|letter| name(letter, random)).collect();
        let is_chain = random.chance(30);
        for (index, path) in names.iter().enumerate() {
            let next = names.get(index + 1).filter(|_| is_chain && index < 7);
            let content = match next {
                Some(next) if random.chance(90) => script(next, random),
                _ => world.content(&names, random),
            };
            fs::write(path, content).unwrap();
            let mode = if random.chance(88) { 0o755 } else { 0o644 };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        symlink(random.pick(&names), "wlink").unwrap();
        fs::copy(random.pick(&names), "ynoexec/file").unwrap();
        world.files = names;
        world.files.extend(["wlink", "ynoexec/file", "zdir", "xloop", "vmissing"].map(PathBuf::from));
        world.register(random);
        world
    }

    fn content(&mut self, names: &[PathBuf], random: &mut Random) -> Vec<u8> {
        match random.below(16) {
            0..=4 => [self.natives[random.below(2)].clone(), vec![random.byte(); random.below(3)]].concat(),
            5 => {
                let loader = if random.chance(70) { random.pick(names) } else { Path::new("vmissing") };
                let image = with_loader(&self.natives[0], loader);
                self.natives.push(image.clone());
                image
            }
            6 => {
                let mut native = self.natives[0].clone();
                native.truncate(random.below(53));
                native
            }
            7 => {
                let arch = random.pick(ARCHES);
                arch.identity.header(arch.identity.machines[0], 2, 0)
            }
            8..=12 => {
                let interpreter = self.interpreter(names, random);
                script(&interpreter, random)
            }
            13 => Vec::new(),
            _ => (0..random.below(300)).map(|_| *random.pick(b"\0\n #!/aMZ\x7fELF\xff")).collect(),
        }
    }

    fn interpreter(&self, names: &[PathBuf], random: &mut Random) -> PathBuf {
        match random.below(20) {
            0..=13 => random.pick(names).clone(),
            14 => self.root.join(random.pick(names)),
            15 => "wlink".into(),
            16 => "vmissing".into(),
            17 => random.pick(names).join("below"),
            18 => "u".repeat(300).into(),
            _ => random.pick(&["zdir", "ynoexec/file", "xloop"]).into(),
        }
    }

    fn register(&mut self, random: &mut Random) {
        let names = self.files.clone();
        for index in 0..random.below(6) {
            let handler = format!("h{index}");
            let interpreter = self.interpreter(&names, random);
            let takes = if random.chance(12) {
                format!("E::{}:", random.pick(&["x", "yy", "z"]))
            } else {
                let header = fs::read(random.pick(&names)).unwrap_or_default();
                pattern(&header, random)
            };
            let flags = random.pick(&["", "", "", "F", "F", "O", "OF", "C", "P", "PF", "POCF"]);
            let line = format!(":{handler}:{takes}:{}:{flags}", interpreter.display());
            // A rule that the kernel refuses does not become a handler.
            if self.lab.register(line.as_bytes()).is_ok() && random.chance(15) {
                self.lab.command(&handler, "0");
            }
        }
        if random.chance(5) {
            self.lab.command("status", "0");
        }
        let instance = Instance::open(Path::new(INSTANCE)).unwrap();
        self.handlers = qus::handler::table::handlers(&instance).unwrap();
        self.enabled = instance.is_enabled().unwrap();
        // With `F` the kernel has the file open, so a later change of its mode or name has no effect.
        if random.chance(20) {
            let path = &names[random.below(FILES)];
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        let path = &names[random.below(FILES)];
        let native = fs::read(path).unwrap();
        if random.chance(20)
            && self.natives[..2].contains(&native)
            && first_match(&self.handlers, &native, path).is_none()
            && first_match(&self.handlers, &native, Path::new("wlink")).is_none()
        {
            fs::remove_file(path).unwrap();
        }
    }

    fn predict(&self, file: &Path) -> Prediction {
        let native = |file: &ExecTarget| {
            self.natives.iter().any(|image| file.header.starts_with(&image[..image.len().min(HEADER_LEN)]))
        };
        let table = Table {
            handlers: &self.handlers,
            enabled: self.enabled,
            native: &native,
            inspect: &|path| Rc::new(ExecTarget::inspect(path)),
        };
        table.predict(&ExecTarget::inspect(file))
    }

    /// Reports whether the file was started. The error describes the difference to the prediction.
    fn compare(&self, file: &Path) -> Result<bool, String> {
        let path = Path::new(".").join(file);
        let prediction = self.predict(&path);
        let seen = start(&path, file.as_os_str()).map_err(|errno| errno as i32);
        let predicted = match &prediction.end {
            End::Fails { errno, .. } => Err(*errno as i32),
            End::Killed { .. } => Ok(None),
            End::Starts | End::Unclear { .. } => {
                let program = match prediction.steps.last() {
                    Some(Step::Handler { interpreter, .. } | Step::Script { interpreter }) => interpreter,
                    None => file,
                };
                Ok(program.as_os_str().as_bytes().first().map(|byte| i32::from(*byte)))
            }
        };
        if predicted == seen {
            return Ok(seen.is_ok());
        }
        Err(format!("predicted {prediction:?}, but the kernel did {seen:?}"))
    }

    fn describe(&self) -> String {
        let mut text = format!("enabled: {}\n", self.enabled);
        for (name, entry) in self.lab.entries() {
            text.push_str(&format!("{name}: {}\n", entry.replace('\n', ", ")));
        }
        for file in &self.files {
            let mode = fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode());
            let content = fs::read(file).unwrap_or_default();
            let header = content[..content.len().min(70)].escape_ascii();
            text.push_str(&format!("{} {mode:o} {}: {header}\n", file.display(), content.len()));
        }
        text
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        for handler in &self.handlers {
            self.lab.command(&handler.name.to_string(), "-1");
        }
        self.lab.command("status", "1");
        for file in &self.files {
            if fs::symlink_metadata(file).is_ok_and(|metadata| !metadata.is_dir())
                && file != Path::new("xloop")
            {
                fs::remove_file(file).unwrap();
            }
        }
    }
}

fn name(letter: u8, random: &mut Random) -> PathBuf {
    let extension = random.pick(&["", "", ".x", ".yy", ".x.yy", "."]);
    format!("{}{extension}", char::from(letter)).into()
}

/// Returns the probe of this host, fixed (`ET_EXEC`, 2) or position-independent (`ET_DYN`, 3).
pub(crate) fn native(e_type: u16) -> Vec<u8> {
    let arch = host();
    image(arch, arch.identity.machines[0], Variant { e_type, ..Variant::default() })
}

/// Returns a program that needs `loader`.
pub(crate) fn with_loader(program: &[u8], loader: &Path) -> Vec<u8> {
    let path = [loader.as_os_str().as_bytes(), b"\0"].concat();
    with_segment(program, PT_INTERP, &path)
}

/// Returns a program with one more segment, which has this type and this content. Its program headers move to its end.
pub(crate) fn with_segment(program: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
    let arch = Arch::from_header(program).unwrap();
    let order = arch.identity.order;
    let [header, program_header] = if program[4] == 2 { [64, 56] } else { [52, 32] };
    let wide = |value: usize| match program[4] {
        2 => order.xword(value as u64).to_vec(),
        _ => order.word(u32::try_from(value).unwrap()).to_vec(),
    };
    let mut image = program.to_vec();
    image.resize(program.len().next_multiple_of(16), 0);
    let table = image.len();
    let at = table + 2 * program_header;
    // A note that is not loaded has no address.
    let address = if kind == PT_INTERP { at } else { 0 };
    let (kind, flags) = (order.word(kind).to_vec(), order.word(4).to_vec());
    let [offset, address, length, alignment] = [at, address, content.len(), 1].map(wide);
    let interp = match program[4] {
        2 => [kind, flags, offset, address.clone(), address, length.clone(), length, alignment],
        _ => [kind, offset, address.clone(), address, length.clone(), length, flags, alignment],
    };
    let phoff = if program[4] == 2 { 32 } else { 28 };
    image.splice(phoff..phoff + wide(0).len(), wide(table));
    let count = header - 8;
    image.splice(count..count + 2, order.half(2));
    image.extend(interp.concat());
    image.extend(&program[header..header + program_header]);
    image.extend(content);
    image
}

/// Returns a script that names `interpreter`, with the blanks and line ends of real scripts.
fn script(interpreter: &Path, random: &mut Random) -> Vec<u8> {
    let before = random.pick(&["", "", " ", "\t "]).as_bytes();
    let behind = random.pick(&["\n", "\n", "", " -e\n", "\t\n", "\0x\n", " an argument"]).as_bytes();
    let path = if random.chance(10) { b"" } else { interpreter.as_os_str().as_bytes() };
    let mut line = [b"#!", before, path, behind].concat();
    if random.chance(10) {
        line.resize(200 + random.below(120), *random.pick(b"a \0\t\n"));
    }
    line
}

/// Returns the matching part of a rule, which often matches `header`.
fn pattern(header: &[u8], random: &mut Random) -> String {
    let offset = *random.pick(&[0, 0, 0, 1, 2, 4, 16, 18, 100, 250]);
    let longest = *random.pick(&[2, 4, 20]);
    let length = (1 + random.below(longest)).min(HEADER_LEN - offset);
    let mut magic = Vec::new();
    let mut mask = Vec::new();
    for position in offset..offset + length {
        magic.push(header.get(position).copied().unwrap_or(0));
        mask.push(if random.chance(80) { 0xff } else { random.byte() });
    }
    if random.chance(30) {
        magic[random.below(length)] = random.byte();
    }
    if random.chance(3) {
        mask.fill(0);
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!(r"\x{byte:02x}")).collect::<Vec<_>>().concat();
    let mask = if random.chance(50) { hex(&mask) } else { String::new() };
    format!("M:{offset}:{}:{mask}", hex(&magic))
}
