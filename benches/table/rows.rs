//! The rows of the table.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use qus::binfmt::instance::{DEFAULT_PATH, Instance};
use qus::binfmt::{Flags, HandlerName, Matcher, Pattern, Rule};
use qus::handler::classify::emulated_arch;
use qus::probe::{ProbeTarget, STATUS_PATH};
use tempfile::TempDir;

use crate::measure::{Program, Row, Side};
use crate::{INTERPRETERS, QUS, report};

/// Numbers of handlers and files. They show how the cost grows.
const HANDLERS: [usize; 3] = [10, 1000, 10_000];
const FILES: [usize; 3] = [1000, 10_000, 100_000];
/// The architectures that Docker users build for most often.
const FIVE: [&str; 5] = ["aarch64", "arm", "riscv64", "s390x", "ppc64le"];
/// Path of systemd's program that registers handlers.
const SYSTEMD_BINFMT: &str = "/usr/lib/systemd/systemd-binfmt";

/// Returns the directory for files that are used again by later runs.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench")
}

/// Measures all rows that contain one of `filters`; all rows if there is no filter.
pub(crate) fn print(filters: &[String]) -> Result<()> {
    let lab = Lab::new(filters)?;
    lab.start_up()?;
    lab.registration()?;
    lab.bundle()?;
    lab.removal()?;
    lab.list()?;
    lab.which()?;
    lab.run()?;
    lab.fetch()
}

/// Data for the rows.
struct Lab<'a> {
    filters: &'a [String],
    /// Path of this executable, which runs the floors.
    me: String,
    instance: Instance,
    work: TempDir,
    /// The rules that `register all` registers.
    rules: Vec<Rule>,
    /// Emulator and probe of each registered architecture.
    programs: BTreeMap<&'static str, (String, String)>,
}

impl<'a> Lab<'a> {
    /// Lets qus register everything once, and stores the rules.
    fn new(filters: &'a [String]) -> Result<Self> {
        fs::create_dir_all(directory())?;
        let me = std::env::current_exe()?.to_string_lossy().into_owned();
        let instance = Instance::open(Path::new(DEFAULT_PATH))?;
        let work = tempfile::tempdir_in(directory())?;
        let mut lab = Self { filters, me, instance, work, rules: Vec::new(), programs: BTreeMap::new() };
        let mut register = Command::new(QUS);
        let status =
            register.args(["register", "--quiet", "--no-verify", "all"]).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "register all: {status}");
        for handler in qus::handler::table::handlers(&lab.instance)? {
            let rule = handler.entry.to_rule(&handler.name).context("an entry is not a rule")?;
            let arch = emulated_arch(&handler).context("a handler has no architecture")?;
            let subject = ProbeTarget::all_of(arch).next().context("an architecture has no probe")?;
            let probe = lab.file(&format!("probe-{}", arch.name), subject.image())?;
            fs::set_permissions(&probe, fs::Permissions::from_mode(0o755))?;
            let emulator = rule.interpreter().to_string_lossy().into_owned();
            lab.programs.insert(arch.name, (emulator, probe));
            lab.rules.push(rule);
        }
        // The kernel shows the newest first (K32).
        lab.rules.reverse();
        lab.empty()?;
        Ok(lab)
    }

    fn start_up(&self) -> Result<()> {
        let row = |what: &str, ours, floor| self.row(what, ours, floor, &|| Ok(()), &|_| Ok(()));
        row("start-up, `--version`; `/bin/true`", qus(["--version"]), Program::new(["/bin/true"]))
    }

    fn registration(&self) -> Result<()> {
        let count = self.rules.len();
        let lines = self.lines("lines", &self.rules)?;
        let before = || self.empty();
        let after = |_| self.has(count);
        let ours = || qus(["register", "--no-verify", "all"]);
        let row = |what: &str, ours, floor| self.row(what, ours, floor, &before, &after);
        let what = format!("`register all --no-verify`, {count} handlers; a program that writes the lines");
        row(&what, ours(), self.floor(["register", &lines]))?;
        let named = ["register", "--no-verify"].into_iter().chain(self.programs.keys().copied());
        let what = "the same, named: what the host runs itself is not asked; a program that writes the lines";
        row(what, qus(named), self.floor(["register", &lines]))?;
        let script = format!(
            "while IFS= read -r line; do printf %s \"$line\" >{DEFAULT_PATH}/register; done <{lines}"
        );
        row("the same; `sh` that writes the lines", ours(), Program::new(["sh", "-ec", &script]))?;
        if Path::new(SYSTEMD_BINFMT).exists() {
            row("the same; `systemd-binfmt` with the lines", ours(), Program::new([SYSTEMD_BINFMT, &lines]))?;
        } else {
            report("systemd-binfmt is not installed: skipped")?;
        }
        match self.binfmt_support()? {
            Some(database) => {
                let enable = ["update-binfmts", "--admindir", &database, "--enable"];
                row(
                    "the same; `update-binfmts` with the same in its database",
                    ours(),
                    Program::new(enable),
                )?;
            }
            None => report("update-binfmts is not installed: skipped")?,
        }
        // The floor executes the emulators, and registers nothing.
        let after = |side| self.has(if side == Side::Ours { count } else { 0 });
        let programs =
            self.programs.values().flat_map(|(emulator, probe)| [emulator.as_str(), probe.as_str()]);
        let floor = self.floor(["start"].into_iter().chain(programs));
        let what = format!(
            "`register all`, each verified by two executions; the {} emulators started once, all at once",
            self.programs.len()
        );
        self.row(&what, qus(["register", "all"]), floor, &before, &after)?;
        self.empty()
    }

    /// Creates a database of binfmt-support with the rules of qus; `None` if binfmt-support is not installed.
    fn binfmt_support(&self) -> Result<Option<String>> {
        if Command::new("update-binfmts").arg("--version").output().is_err() {
            return Ok(None);
        }
        let (formats, database) = (self.path("formats"), self.path("database"));
        fs::create_dir_all(&database)?;
        let mut export = Command::new(QUS);
        export.args(["export", "--format", "binfmt-support", "-o", &formats]).args(self.programs.keys());
        let mut import = Command::new("update-binfmts");
        import.args(["--admindir", &database, "--importdir", &formats, "--import"]);
        for command in [&mut export, &mut import] {
            let output = command.output()?;
            ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Some(database))
    }

    fn bundle(&self) -> Result<()> {
        let bundle = self.path("qus-bundle");
        let mut make = Command::new(QUS);
        make.args(["bundle", "-o", &bundle]).args(FIVE).args(["--interpreter-dir".into(), interpreters()?]);
        let output = make.output()?;
        if !output.status.success() {
            return report(&format!(
                "cannot make a bundle, skipped: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        let five = |rule: &&Rule| {
            FIVE.iter().any(|arch| {
                self.programs.get(arch).is_some_and(|(emulator, _)| rule.interpreter() == Path::new(emulator))
            })
        };
        let rules: Vec<Rule> = self.rules.iter().filter(five).cloned().collect();
        let lines = self.lines("lines-of-five", &rules)?;
        // The architectures are named, because `all` would also use interpreters in other directories.
        let words = [bundle.as_str(), "register", "--no-verify"];
        // The directory in the variable would take precedence over the interpreters of the bundle.
        let ours = || Program::new(words.into_iter().chain(FIVE)).without(INTERPRETERS);
        let floor = self.floor(["register-in-memory", &lines]);
        let what = format!(
            "a bundle of five registers from memory, {:.0} MB unpacked; a program that copies them into memory",
            megabytes(&rules)?
        );
        let after = |side| {
            self.has(rules.len())?;
            if side == Side::Ours { self.is_in_memory() } else { Ok(()) }
        };
        self.row(&what, ours(), floor, &|| self.empty(), &after)?;
        let what = "the same bundle; its five unpacked and compared, by the same code, and nothing else";
        let after = |side| self.has(if side == Side::Ours { rules.len() } else { 0 });
        self.row(what, ours(), self.floor(["unpack", &bundle]), &|| self.empty(), &after)?;
        self.empty()
    }

    fn removal(&self) -> Result<()> {
        let names: Vec<String> = self.rules.iter().map(|rule| rule.name().to_string()).collect();
        let names = self.file("names", names.join("\n"))?;
        let what = format!("`reset` of {}; a program that removes them by name", self.rules.len());
        let floor = self.floor(["remove", &names]);
        self.row(&what, qus(["reset"]), floor, &|| self.fill(&self.rules), &|_| self.has(0))
    }

    fn list(&self) -> Result<()> {
        self.fill(&self.rules)?;
        let what = format!("`list` of these {}; a program that reads the entries", self.rules.len());
        self.row(&what, qus(["list"]), self.floor(["read-entries"]), &|| Ok(()), &|_| Ok(()))?;
        for count in HANDLERS {
            if !self.is_chosen("`list` of handlers") {
                break;
            }
            self.empty()?;
            self.fill(&(0..count).map(strange).collect::<Result<Vec<_>>>()?)?;
            let what = format!("`list` of handlers, {count}; a program that reads the entries");
            self.row(&what, qus(["list"]), self.floor(["read-entries"]), &|| Ok(()), &|_| Ok(()))?;
        }
        self.empty()
    }

    fn which(&self) -> Result<()> {
        if !self.is_chosen("`which --no-verify` of files") {
            return Ok(());
        }
        self.fill(&self.rules)?;
        let images =
            self.programs.values().map(|(_, probe)| fs::read(probe)).collect::<Result<Vec<_>, _>>()?;
        let mut list = Vec::new();
        let mut made = 0;
        for count in FILES {
            for (index, image) in images.iter().cycle().enumerate().take(count).skip(made) {
                // Many directories, so that the cost of one very large directory is not measured.
                let parent = self.work.path().join(format!("files/{}", index / 1000));
                fs::create_dir_all(&parent)?;
                let file = parent.join(index.to_string());
                fs::write(&file, image)?;
                fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
                list.extend(file.as_os_str().as_encoded_bytes());
                list.push(0);
            }
            made = count;
            let names = self.file("list", &list)?;
            let what =
                format!("`which --no-verify` of files, {count}; a program that reads their first pages");
            let ours = qus(["which", "--no-verify", "--files0-from", &names]);
            self.row(&what, ours, self.floor(["read-heads", &names]), &|| Ok(()), &|_| Ok(()))?;
        }
        self.empty()
    }

    fn run(&self) -> Result<()> {
        let Some((emulator, probe)) = self.programs.get("aarch64") else {
            return report("there is no interpreter for aarch64: run is skipped");
        };
        let what = format!(
            "`run` of a program, {} handlers registered for it; its emulator alone",
            self.rules.len()
        );
        let ours = qus(["run", "--", probe]).ending(STATUS_PATH);
        let floor = Program::new([emulator.as_str(), probe]).ending(STATUS_PATH);
        self.row(&what, ours, floor, &|| Ok(()), &|_| Ok(()))
    }

    fn fetch(&self) -> Result<()> {
        let what = "`fetch` of two out of Debian's package; `dpkg-deb` and `tar`";
        if !self.is_chosen(what) {
            return Ok(());
        }
        let Some(package) = package()? else {
            return report("apt-get did not download Debian's package: fetch is skipped");
        };
        let dest = self.path("dest");
        let two = ["qemu-aarch64-static", "qemu-arm-static"];
        let members = two.map(|name| format!("./usr/bin/{name}")).join(" ");
        let script =
            format!("dpkg-deb --fsys-tarfile {package} | tar -x --strip-components=3 -C {dest} {members}");
        let before = || {
            fs::remove_dir_all(&dest).or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
            Ok(fs::create_dir(&dest)?)
        };
        let after = |_| {
            let is_there = |name: &&str| Path::new(&dest).join(name).is_file();
            ensure!(two.iter().all(is_there), "{two:?} are not in {dest}");
            Ok(())
        };
        let ours = qus(["fetch", "--quiet", "--from", &package, "--dest", &dest, "aarch64", "arm"]);
        self.row(what, ours, Program::new(["sh", "-ec", &script]), &before, &after)
    }

    /// Measures a row, if the filters select it.
    fn row(
        &self,
        what: &str,
        ours: Program,
        floor: Program,
        before: &dyn Fn() -> Result<()>,
        after: &dyn Fn(Side) -> Result<()>,
    ) -> Result<()> {
        if !self.is_chosen(what) {
            return Ok(());
        }
        Row { what: what.to_owned(), ours, floor, before, after }.print()
    }

    fn is_chosen(&self, what: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| what.contains(filter))
    }

    fn floor<'b>(&'b self, words: impl IntoIterator<Item = &'b str>) -> Program {
        Program::new([self.me.as_str(), "floor"].into_iter().chain(words))
    }

    fn path(&self, name: &str) -> String {
        self.work.path().join(name).to_string_lossy().into_owned()
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<String> {
        let path = self.path(name);
        fs::write(&path, content)?;
        Ok(path)
    }

    /// Writes the rules as register lines to a file, and returns its path.
    fn lines(&self, name: &str, rules: &[Rule]) -> Result<String> {
        let lines: Vec<u8> =
            rules.iter().flat_map(|rule| [rule.to_line(), b"\n".to_vec()].concat()).collect();
        self.file(name, lines)
    }

    fn empty(&self) -> Result<()> {
        for name in self.instance.names()? {
            self.instance.remove(&name)?;
        }
        Ok(())
    }

    fn fill(&self, rules: &[Rule]) -> Result<()> {
        for rule in rules {
            self.instance.register(rule)?;
        }
        Ok(())
    }

    /// Checks that all interpreters are in memory. The path of such an interpreter is not absolute.
    fn is_in_memory(&self) -> Result<()> {
        for handler in qus::handler::table::handlers(&self.instance)? {
            let path = handler.entry.interpreter.unwrap_or_default();
            ensure!(!path.is_absolute(), "{} is registered, not a copy in memory", path.display());
        }
        Ok(())
    }

    fn has(&self, count: usize) -> Result<()> {
        let found = self.instance.names()?.len();
        ensure!(found == count, "{found} handlers are registered instead of {count}");
        Ok(())
    }
}

/// Returns the total size of the interpreters of `rules`, in megabytes.
fn megabytes(rules: &[Rule]) -> Result<f64> {
    let mut files: Vec<&Path> = rules.iter().map(Rule::interpreter).collect();
    files.sort_unstable();
    files.dedup();
    let sizes = files.iter().map(|file| Ok(fs::metadata(file)?.len())).collect::<Result<Vec<u64>>>()?;
    Ok(f64::from(u32::try_from(sizes.iter().sum::<u64>() / 1000)?) / 1000.0)
}

fn qus<'a>(words: impl IntoIterator<Item = &'a str>) -> Program {
    Program::new([QUS].into_iter().chain(words))
}

fn interpreters() -> Result<std::ffi::OsString> {
    std::env::var_os(INTERPRETERS).context("no directory of interpreters")
}

/// Returns a handler that matches no program. Its interpreter does not exist, so qus does not search for its owner.
fn strange(number: usize) -> Result<Rule> {
    let magic = [b"\xfe\xed".to_vec(), u32::try_from(number)?.to_be_bytes().to_vec()].concat();
    let name = HandlerName::new(format!("bench-{number}"))?;
    let matcher = Matcher::Magic(Pattern::new(0, magic, None)?);
    Ok(Rule::new(name, matcher, Path::new("/opt/emulators/bench"), Flags::empty())?)
}

/// Downloads Debian's package of static interpreters once. This runs outside of the namespaces, because apt needs its
/// own user.
pub(crate) fn download() -> Result<()> {
    fs::create_dir_all(directory())?;
    if package()?.is_none() {
        let mut download = Command::new("apt-get");
        // Without apt or its package lists there is no package, which `fetch` reports later.
        let _output = download.args(["download", "-q", "qemu-user-static"]).current_dir(directory()).output();
    }
    Ok(())
}

/// Returns the path of Debian's package, if it was downloaded.
fn package() -> Result<Option<String>> {
    for file in fs::read_dir(directory())? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(Some(path.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}
