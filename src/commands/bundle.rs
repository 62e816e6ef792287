//! `qus bundle`: writes a copy of the qus executable that contains interpreters.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::arch::Arch;
use crate::base::count::count;
use crate::base::error::Diagnostic;
use crate::base::escape::display_path;
use crate::base::output::{Output, Status};
use crate::base::terminal::TextWriter;
use crate::commands::args::{
    ArchArg, Common, INTERPRETERS, OUTPUT, RequiredArgs, Words, named, parse_arches,
};
use crate::commands::report::Report;
use crate::commands::suggestion;
use crate::interpreter::bundle::unpack_bundle;
use crate::interpreter::bundle::{self, Content};
use crate::interpreter::fetch::{self, FetchRequest};
use crate::interpreter::progress::StepProgress;
use crate::interpreter::{Interpreter, search, versions_of};
use crate::interpreter::{describe_dirs, search_dirs};
use crate::interpreter::{is_of, self_exe_header};
use crate::package::{MemberFilter, Package, Progress as _};
use crate::system::atomic_file;
use crate::system::dir::{Dir, parent_dir};
use crate::system::output_file::{OutputFile, is_standard_output};
use crate::system::temp_dir::TempDir;
use clap::Args;

/// Arguments of `qus bundle`.
#[derive(Debug, Args)]
pub struct Bundle {
    /// Architectures to bundle, or `all`
    ///
    /// Architectures by any name, or `all` for every architecture that has an interpreter.
    #[arg(value_name = "ARCH", value_parser = parse_arches, required = true)]
    pub arches: Vec<Words<ArchArg>>,
    /// Get the interpreters from SRC
    ///
    /// Gets the interpreters from this package, archive or directory.
    #[arg(help_heading = INTERPRETERS, long, value_name = "SRC")]
    pub from: Option<PathBuf>,
    /// Search only in DIR (repeatable)
    ///
    /// Searches for interpreters only in DIR. Given several times, it searches each DIR.
    #[arg(help_heading = INTERPRETERS, long, value_name = "DIR", conflicts_with = "from")]
    pub interpreter_dir: Vec<PathBuf>,
    /// Requirements for interpreters.
    #[command(flatten)]
    pub required: RequiredArgs,
    /// File to write
    ///
    /// File to write. `-` is standard output. A regular file is replaced when the new one is complete. A pipe or a
    /// device is written directly.
    #[arg(help_heading = OUTPUT, short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// Paths of the licence texts that Debian's packages of QEMU install.
const LICENCES: [&str; 2] =
    ["/usr/share/doc/qemu-user-static/copyright", "/usr/share/doc/qemu-user/copyright"];
/// File name of a licence text, in a bundle as well as in a distribution's package.
const LICENCE: &str = "copyright";

/// Results of `qus bundle`: a description of the written bundle.
#[derive(Serialize)]
pub(crate) struct BundleReport {
    file: PathBuf,
    /// Size of the bundle in bytes.
    size: u64,
    arches: Vec<&'static str>,
    /// True if the bundle contains the licence text of QEMU.
    licence: bool,
    /// True if the bundle is written to standard output, and the report to standard error.
    #[serde(skip)]
    is_standard: bool,
}

/// Writes the bundle that `args` describes.
pub(super) fn execute(args: &Bundle, common: &Common) -> Result<BundleReport> {
    let cannot_write =
        |error| Diagnostic::new(format!("cannot write {}: {error}", display_path(&args.output)));
    let is_standard = is_standard_output(&args.output).map_err(cannot_write)?;
    if is_standard && common.json {
        return Err(Diagnostic::new("cannot write both the bundle and JSON to standard output").into());
    }
    bundle::check_own().map_err(|error| {
        Diagnostic::new(format!("cannot bundle: {error}"))
            .with_hint("use a statically linked qus, as `cargo build --release` makes it in its source tree")
    })?;
    // An unwritable target is refused before anything is fetched.
    OutputFile::check(&args.output).map_err(cannot_write)?;
    let arches = named(&args.arches);
    let inputs = gather(args, arches.as_deref(), common.quiet)?;
    let mut contents = contents(&inputs.interpreters)?;
    let licence = licence(args.from.as_deref());
    let has_licence = licence.is_some();
    contents.extend(licence.map(|bytes| Content { name: LICENCE.to_owned(), version: None, bytes }));
    let progress = StepProgress::new(common.quiet);
    progress.message(&format!("packing {}", count(inputs.interpreters.len(), "interpreter")));
    progress.total(contents.iter().map(|content| content.bytes.len() as u64).sum());
    let size = write(&args.output, contents, &progress.advance_shared());
    progress.finish();
    let size = size?;
    let arches = inputs.interpreters.iter().map(|(arch, _)| arch.name).collect();
    Ok(BundleReport { file: args.output.clone(), size, arches, licence: has_licence, is_standard })
}

/// Reads the interpreter files. Each becomes a member of the bundle.
fn contents(interpreters: &[(&'static Arch, Interpreter)]) -> Result<Vec<Content>, Diagnostic> {
    let versions = versions_of(interpreters.iter().map(|(_, interpreter)| interpreter.path.as_path()));
    let mut contents = Vec::new();
    for (arch, interpreter) in interpreters {
        let path = display_path(&interpreter.path);
        let version = versions.get(&interpreter.path).cloned().ok_or_else(|| {
            Diagnostic::new(format!("{path} is not a QEMU emulator: it contains no version"))
        })?;
        let bytes =
            interpreter.read().map_err(|error| Diagnostic::new(format!("cannot read {path}: {error}")))?;
        contents.push(Content {
            name: format!("qemu-{}-static", arch.name),
            version: Some(version.to_string()),
            bytes,
        });
    }
    Ok(contents)
}

impl BundleReport {
    fn line(&self) -> String {
        format!("{}  {} bytes, with {}", display_path(&self.file), self.size, self.arches.join(" "))
    }
}

impl Report for BundleReport {
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        if self.is_standard { Ok(()) } else { writeln!(text, "{}", self.line()) }
    }

    fn conclude(&self, output: &mut Output<'_>) -> Result<Status> {
        if self.is_standard {
            output.info(&self.line())?;
        }
        if !self.licence {
            output
                .info("no licence text of QEMU was found: the GPL requires one if you pass the bundle on")?;
        }
        Ok(Status::Done)
    }
}

/// Interpreters for the bundle, and the temporary directory into which they were unpacked, if there is one.
struct Inputs {
    _temp_dir: Option<TempDir>,
    interpreters: Vec<(&'static Arch, Interpreter)>,
}

/// Finds the interpreters of `arches`, or all interpreters if `arches` is `None`. Unpacks them first if they are in the
/// source of `--from` or in this executable.
fn gather(args: &Bundle, arches: Option<&[&'static Arch]>, quiet: bool) -> Result<Inputs, Diagnostic> {
    let mut directory = None;
    let search_dirs = if let Some(source) = &args.from {
        let temporary = TempDir::create(true).map_err(Diagnostic::new)?;
        let request = FetchRequest {
            arches: arches.map(<[_]>::to_vec),
            from: Some(source),
            sha256: args.required.sha256,
            dest: Some(temporary.path()),
            is_dest_named: false,
            version: args.required.qemu_version.as_ref(),
        };
        let fetched = fetch::fetch(&request, quiet)?;
        if let Some(problem) = fetched.problem() {
            return Err(problem);
        }
        let search_dirs = vec![temporary.path().to_owned()];
        directory = Some(temporary);
        search_dirs
    } else if args.interpreter_dir.is_empty() {
        directory = unpack_bundle(|arch| arches.is_none_or(|arches| arches.contains(&arch)))?;
        search_dirs(directory.as_ref())
    } else {
        args.interpreter_dir.clone()
    };
    let requested = |arch: &'static Arch, path: &Path| {
        arches.is_none_or(|arches| arches.contains(&arch))
            && is_of(args.required.qemu_version.as_ref(), arch, path)
    };
    let found = search(&search_dirs, &self_exe_header()?, requested);
    let mut interpreters = Vec::new();
    for (name, found) in found {
        interpreters.extend(Arch::from_qemu_target(name).zip(found.interpreter));
    }
    let has = |arch: &&&'static Arch| !interpreters.iter().any(|(there, _)| *there == **arch);
    let missing: Vec<&str> = arches.unwrap_or_default().iter().filter(has).map(|arch| arch.name).collect();
    if !missing.is_empty() || interpreters.is_empty() {
        let what = if missing.is_empty() { "any architecture".to_owned() } else { missing.join(", ") };
        let search_dirs = describe_dirs(&search_dirs, !args.interpreter_dir.is_empty());
        let problem = Diagnostic::new(format!("no interpreter for {what} is in {search_dirs}"));
        let version = args.required.qemu_version.as_ref();
        return Err(problem.with_advice(suggestion::fetch(&missing, &args.interpreter_dir, version)));
    }
    Ok(Inputs { _temp_dir: directory, interpreters })
}

/// Returns QEMU's licence text from the package `source`. Without `source`, returns the text that the distribution has
/// installed with its interpreters.
fn licence(source: Option<&Path>) -> Option<Vec<u8>> {
    let Some(source) = source else { return LICENCES.iter().find_map(|path| fs::read(path).ok()) };
    let directory = TempDir::create(false).ok()?;
    let mut text = LicenceText { done: false };
    let extraction = Package::open(source).ok()?.extract(&mut text, directory.path(), &()).ok()?;
    fs::read(&extraction.placed.first()?.path).ok()
}

/// Filter that unpacks only the first file named `copyright` of a package.
struct LicenceText {
    done: bool,
}

impl MemberFilter for LicenceText {
    fn want(&mut self, file_name: &[u8]) -> Option<String> {
        (!self.done && file_name == LICENCE.as_bytes()).then(|| LICENCE.to_owned())
    }

    fn complete(&self) -> bool {
        self.done
    }

    fn accept(&mut self, _: &str, _: &Path) -> Result<(), String> {
        self.done = true;
        Ok(())
    }
}

/// Callback that receives the size of each packed member of a bundle, in bytes, to show the progress.
type OnPacked = dyn Fn(u64) + Sync;

/// Writes a bundle with `contents` to `path`, and returns its size in bytes. A regular file at `path` is replaced only
/// when the new bundle is complete. A pipe or a device is written directly.
fn write(path: &Path, contents: Vec<Content>, on_packed: &OnPacked) -> Result<u64, Diagnostic> {
    let written = OutputFile::open(path).and_then(|output| match output {
        OutputFile::Standard => stream(io::stdout().lock(), contents, on_packed),
        OutputFile::Stream(file) => stream(file, contents, on_packed),
        OutputFile::Regular => write_file(path, contents, on_packed),
    });
    written.map_err(|error| Diagnostic::new(format!("cannot write {}: {error}", display_path(path))))
}

fn write_file(path: &Path, contents: Vec<Content>, on_packed: &OnPacked) -> io::Result<u64> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let directory = Dir::open(parent_dir(path))?;
    atomic_file::remove_stale(&directory.path());
    let mut file = atomic_file::create(&directory)?;
    bundle::write(contents, &mut BufWriter::new(file.as_file_mut()), on_packed).map_err(io::Error::other)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
    let size = file.as_file().metadata()?.len();
    atomic_file::finish(file)?.persist(&directory.path().join(name))?;
    Ok(size)
}

fn stream(target: impl Write, contents: Vec<Content>, on_packed: &OnPacked) -> io::Result<u64> {
    let mut target = CountingWriter { target: BufWriter::new(target), count: 0 };
    bundle::write(contents, &mut target, on_packed).map_err(io::Error::other)?;
    target.flush()?;
    Ok(target.count)
}

/// A writer that counts the bytes that it passes on to `target`.
struct CountingWriter<W> {
    target: W,
    count: u64,
}

impl<W: Write> Write for CountingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.target.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush()
    }
}
