//! `qus export`: rules for other software to register, at boot or in an image. Nothing is registered or executed here.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::arch::{ARCHES, Arch};
use crate::base::error::Diagnostic;
use crate::base::output::{Output, Status, display_path, format_table};
use crate::binfmt::Flags;
use crate::boot::formats::{self, ArchRules, Format, RuleView};
use crate::commands::args::{ArchArg, named, parse_arch, parse_one_arch};
use crate::handler::classify;
use crate::interpreter::self_exe_header;
use crate::interpreter::store;
use crate::interpreter::{default_search_dirs, search};
use crate::system::managed_file;
use clap::Args;

/// `qus export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Architectures, or `all`: those with an interpreter at hand, or with --interpreter-path every one; without those of
    /// the family of the machine itself [default: all]
    #[arg(value_name = "ARCH", value_delimiter = ',', value_parser = parse_arch)]
    pub arches: Vec<ArchArg>,
    /// Whose files
    #[arg(
        short,
        long,
        value_enum,
        required_unless_present = "json",
        default_value_if("json", "true", "json")
    )]
    pub format: Option<Format>,
    /// Where the interpreters lie on the machine that these are for, whether they are here or not; {arch} stands for the
    /// architecture: /usr/bin/qemu-{arch}-static
    #[arg(long, value_name = "PATH", conflicts_with = "interpreter_dir")]
    pub interpreter_path: Option<PathBuf>,
    /// Look for interpreters here, and nowhere else (may be repeated)
    #[arg(long, value_name = "DIR")]
    pub interpreter_dir: Vec<PathBuf>,
    /// The architecture of the machine that these are for [default: this one's]
    #[arg(long = "for", value_name = "ARCH", value_parser = parse_one_arch, requires = "interpreter_path")]
    pub machine: Option<&'static Arch>,
    /// Give setuid programs the rights of their owners: the emulator then runs as root for them (flag C)
    #[arg(long)]
    pub credentials: bool,
    /// Write the files into this folder, which is made where it is missing; files of others in it are left alone
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

#[derive(Serialize)]
struct ExportReport {
    format: Format,
    rules: Vec<RuleView>,
    /// The files of the format; none for `json`, which is the rules themselves.
    files: Vec<FileView>,
}

#[derive(Serialize)]
struct FileView {
    name: String,
    text: String,
    /// Where it was written, if it was.
    path: Option<PathBuf>,
}

pub(super) fn run(args: &Export, output: &mut Output<'_>) -> Result<Status> {
    let format = args.format.unwrap_or(Format::Json);
    let sets = sets(args)?;
    let files = formats::files(format, &sets).map_err(Diagnostic::from)?;
    let directory = args.output.as_ref().filter(|output| *output != Path::new("-"));
    let location = |name: &str| directory.map(|directory| directory.join(name));
    let mut view = ExportReport {
        format,
        rules: formats::views(&sets),
        files: files
            .iter()
            .map(|file| FileView {
                name: file.name.clone(),
                text: String::from_utf8_lossy(&file.text).into(),
                path: location(&file.name),
            })
            .collect(),
    };
    if directory.is_none() {
        let json = if format == Format::Json { Output::json(&view)? } else { Vec::new() };
        output.document(&view, || if json.is_empty() { formats::concat(format, &files) } else { json })?;
        return Ok(Status::Done);
    }
    let mut written = files;
    if format == Format::Json {
        let text = Output::json(&view)?;
        let name = format!("{}.json", formats::SERVICE);
        view.files.push(FileView { name: name.clone(), text: String::new(), path: location(&name) });
        written.push(formats::File { name, text, executable: false });
    }
    // What stands in the way is found before the first is written.
    for file in &written {
        if let Some(path) = location(&file.name) {
            managed_file::check_content(&path, &file.text).map_err(Diagnostic::from)?;
        }
    }
    for file in &written {
        if let Some(path) = location(&file.name) {
            managed_file::write(&path, &file.text, file.executable).map_err(Diagnostic::from)?;
        }
    }
    output.print_data(&view, || {
        let lines = view.files.iter().filter_map(|file| file.path.as_deref());
        format_table(&lines.map(|path| vec![display_path(path)]).collect::<Vec<_>>())
    })?;
    Ok(Status::Done)
}

/// The rules that are asked for, by architecture.
fn sets(args: &Export) -> Result<Vec<ArchRules>, Diagnostic> {
    let host = self_exe_header()?;
    let machine = args.machine.or_else(|| Arch::from_header(&host));
    let interpreters = interpreters(args, &host, machine)?;
    let mut flags = classify::EXPORTED_FLAGS;
    if args.credentials {
        flags |= Flags::CREDENTIALS;
    }
    let mut sets = Vec::new();
    for (arch, path) in interpreters {
        if machine == Some(arch) {
            return Err(Diagnostic::new(format!(
                "a machine of {0} runs {0} itself; its programs would all go through the emulator",
                arch.name
            ))
            .with_hint(format!(
                "qus export --for ARCH --interpreter-path … {} (for a machine of ARCH)",
                arch.name
            )));
        }
        let rules = classify::rules(arch, &path, flags).map_err(|error| {
            Diagnostic::from(error).with_hint("put the interpreter into a folder with a shorter path")
        })?;
        sets.push(ArchRules { arch, rules, copied: false });
    }
    Ok(sets)
}

/// Where the interpreter of each architecture lies that is asked for, in the order of the table.
fn interpreters(
    args: &Export,
    host: &[u8],
    machine: Option<&'static Arch>,
) -> Result<Vec<(&'static Arch, PathBuf)>, Diagnostic> {
    let named = named(&args.arches);
    let family = machine.map(Arch::same_family).unwrap_or_default();
    // Whether a machine runs its companions, only an execution there tells: who wants their rules names them.
    let is_wanted = |arch: &'static Arch| match &named {
        Some(named) => named.contains(&arch),
        None => machine != Some(arch) && !family.contains(&arch.name),
    };
    let wanted = || ARCHES.iter().filter(|arch| is_wanted(arch));
    if let Some(template) = &args.interpreter_path {
        return wanted().map(|arch| Ok((arch, filled(template, arch, named.as_deref())?))).collect();
    }
    let search_dirs = if args.interpreter_dir.is_empty() {
        default_search_dirs(&store::all_fetched())
    } else {
        args.interpreter_dir.clone()
    };
    let mut found = search(&search_dirs, host, |arch, _| is_wanted(arch));
    let mut interpreters = Vec::new();
    let mut missing = Vec::new();
    for arch in wanted() {
        match found.remove(arch.name).and_then(|found| found.interpreter) {
            Some(interpreter) => interpreters.push((arch, interpreter.path)),
            None => missing.push(arch.name),
        }
    }
    if interpreters.is_empty() || named.is_some() && !missing.is_empty() {
        let what = if named.is_some() { missing.join(" ") } else { "any architecture".to_owned() };
        let search_dirs: Vec<String> = search_dirs.iter().map(|location| display_path(location)).collect();
        let hint = format!(
            "qus fetch {0}; or, for a path that need not exist here: qus export --interpreter-path '/usr/bin/qemu-{{arch}}-static' {0}",
            if named.is_some() { what.as_str() } else { "all" }
        );
        return Err(Diagnostic::new(format!("no interpreter for {what} is in {}", search_dirs.join(", ")))
            .with_hint(hint));
    }
    Ok(interpreters)
}

/// The path that a template means for an architecture.
fn filled(
    template: &Path,
    arch: &'static Arch,
    named: Option<&[&'static Arch]>,
) -> Result<PathBuf, Diagnostic> {
    /// What stands for the name of the architecture.
    const BLANK: &str = "{arch}";
    let example = "qus export --interpreter-path '/usr/bin/qemu-{arch}-static' …";
    let Some(text) = template.to_str().filter(|text| text.starts_with('/')) else {
        let problem = Diagnostic::new(format!("{} is no absolute path in UTF-8", display_path(template)));
        return Err(problem.with_hint(example));
    };
    if !text.contains(BLANK) && named.is_none_or(|named| named.len() != 1) {
        let problem = Diagnostic::new(format!("{text} would be the interpreter of several architectures"));
        return Err(problem.with_hint(example));
    }
    Ok(text.replace(BLANK, arch.name).into())
}
