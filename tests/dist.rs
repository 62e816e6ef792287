//! Parses the files in `dist/` and of the GitHub action into types that reject unknown fields. So these tests find a
//! misspelt field, which the programs that read the files do not always report.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::Parser as _;
use qus::cli::Cli;
use qus::commands::Command;
use qus::commands::args::named;
use qus::commands::register::Register;
use qus::system::namespace::Target;
use serde::Deserialize;

/// `--in host`.
const HOST: Target = Target::Process(1);

/// Path of the executable in the image, and the name of an image that was built but not pushed.
const PROGRAM: &str = "/usr/bin/qus";
const IMAGE: &str = "qus:latest";

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Parses the arguments of a `qus register` command line.
fn register<'a>(words: impl IntoIterator<Item = &'a str>) -> Register {
    match Cli::try_parse_from(std::iter::once("qus").chain(words)).unwrap().command {
        Command::Register(register) => register,
        other => panic!("not register: {other:?}"),
    }
}

fn words(list: &[String]) -> impl Iterator<Item = &str> {
    list.iter().map(String::as_str)
}

/// The fields of our DaemonSet, as the Kubernetes API spells them (`apps/v1`, `core/v1`).
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DaemonSet {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: DaemonSetSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DaemonSetSpec {
    selector: Selector,
    template: Template,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Selector {
    match_labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    metadata: Metadata,
    spec: Pod,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools, reason = "switches of a pod")]
struct Pod {
    #[serde(rename = "hostPID")]
    host_pid: bool,
    node_selector: BTreeMap<String, String>,
    tolerations: Vec<BTreeMap<String, String>>,
    priority_class_name: String,
    automount_service_account_token: bool,
    enable_service_links: bool,
    termination_grace_period_seconds: u64,
    containers: [Container; 1],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Container {
    name: String,
    image: String,
    image_pull_policy: String,
    command: Vec<String>,
    args: Vec<String>,
    security_context: SecurityContext,
    resources: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SecurityContext {
    privileged: bool,
    read_only_root_filesystem: bool,
}

#[test]
fn daemonset() {
    let set: DaemonSet = serde_norway::from_str(&read("dist/kubernetes/daemonset.yaml")).unwrap();
    assert_eq!((set.api_version.as_str(), set.kind.as_str()), ("apps/v1", "DaemonSet"));
    assert_eq!(set.metadata.name.as_deref(), Some("qus"));
    assert_eq!(set.metadata.namespace.as_deref(), Some("kube-system"));
    let Template { metadata, spec: pod } = set.spec.template;
    assert!(metadata.name.is_none() && metadata.namespace.is_none());
    assert_eq!(set.spec.selector.match_labels, metadata.labels);
    assert_eq!(set.metadata.labels, metadata.labels);
    assert!(pod.host_pid, "--in host enters the namespaces of process 1");
    assert!(!pod.automount_service_account_token && !pod.enable_service_links);
    assert_eq!(pod.node_selector["kubernetes.io/os"], "linux");
    assert_eq!(pod.tolerations[0]["operator"], "Exists");
    assert_eq!(pod.priority_class_name, "system-node-critical");
    assert_eq!(pod.termination_grace_period_seconds, 30);
    let [container] = pod.containers;
    assert_eq!((container.name.as_str(), container.image.as_str()), ("qus", IMAGE));
    assert_eq!(container.image_pull_policy, "IfNotPresent");
    assert!(container.security_context.privileged && container.security_context.read_only_root_filesystem);
    assert_eq!(container.command, [PROGRAM]);
    assert_eq!(container.resources.keys().collect::<Vec<_>>(), ["requests"], "interpreters are in memory");
    let register = register(words(&container.args));
    assert!(register.target == Some(HOST) && register.hold, "{register:?}");
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Compose {
    services: BTreeMap<String, Service>,
}

/// The fields of a service in our file, as the Compose specification spells them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    image: String,
    entrypoint: Option<Vec<String>>,
    command: Vec<String>,
    platform: Option<String>,
    #[serde(default)]
    privileged: bool,
    pid: Option<Namespace>,
    network_mode: Option<NetworkMode>,
    #[serde(default)]
    depends_on: BTreeMap<String, Dependency>,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Namespace {
    Host,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum NetworkMode {
    None,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dependency {
    condition: Condition,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::enum_variant_names, reason = "the specification's names")]
enum Condition {
    ServiceStarted,
    ServiceHealthy,
    ServiceCompletedSuccessfully,
}

#[test]
fn compose() {
    let Compose { services } = serde_norway::from_str(&read("dist/compose.yaml")).unwrap();
    let qus = &services["qus"];
    assert_eq!((qus.image.as_str(), qus.privileged), (IMAGE, true));
    assert_eq!(qus.entrypoint.as_deref(), Some([PROGRAM.to_owned()].as_slice()));
    assert_eq!((&qus.pid, &qus.network_mode), (&Some(Namespace::Host), &Some(NetworkMode::None)));
    let register = register(words(&qus.command));
    assert!(register.target == Some(HOST) && !register.hold, "{register:?}");

    let app = &services["app"];
    assert!(!app.privileged && app.entrypoint.is_none() && app.pid.is_none());
    assert_eq!(app.depends_on["qus"].condition, Condition::ServiceCompletedSuccessfully);
    let platform = app.platform.as_deref().unwrap();
    let registered = named(&register.arches).unwrap();
    assert_eq!(
        registered,
        [qus::arch::Arch::named(platform).unwrap()],
        "the file must register the platforms of its services"
    );
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GitLab {
    build: Job,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    image: String,
    variables: BTreeMap<String, String>,
    before_script: Vec<String>,
    script: Vec<String>,
}

#[test]
fn gitlab() {
    let GitLab { build } = serde_norway::from_str(&read("dist/ci/gitlab-ci.yml")).unwrap();
    assert!(build.image.starts_with("debian:"));
    assert!(!build.before_script.is_empty());
    let platforms: Vec<&str> = build.variables["PLATFORMS"].split(',').collect();
    let line = build.script.iter().find_map(|line| line.strip_prefix("qus ")).unwrap();
    let registered = named(&register(line.split(' ')).arches).unwrap();
    for platform in platforms {
        let arch = qus::arch::Arch::named(platform).unwrap();
        assert!(
            registered.contains(&arch) || arch.name == "x86_64",
            "{platform} is built but not registered"
        );
    }
    // The stage "Build" of Jenkins has the same commands.
    assert_eq!(build.script.len(), 3);
    let jenkins = read("dist/ci/Jenkinsfile");
    let stage = jenkins.split("stage(").find(|stage| stage.starts_with("'Build')")).unwrap();
    let commands = stage.split("'''").nth(1).unwrap();
    let commands: Vec<&str> = commands.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(commands, words(&build.script).collect::<Vec<_>>());
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    name: String,
    description: String,
    inputs: BTreeMap<String, Input>,
    outputs: BTreeMap<String, ActionOutput>,
    runs: Runs,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    description: String,
    default: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionOutput {
    description: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Runs {
    using: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    id: String,
    shell: String,
    run: String,
    env: BTreeMap<String, String>,
}

#[test]
fn action() {
    let action: Action = serde_norway::from_str(&read(".github/actions/setup-qus/action.yml")).unwrap();
    assert!(!action.name.is_empty() && !action.description.is_empty());
    assert_eq!(action.inputs.keys().collect::<Vec<_>>(), ["persist", "platforms", "reset", "version"]);
    assert_eq!(action.runs.using, "composite");
    let [step] = action.runs.steps.as_slice() else { panic!("one step") };
    assert_eq!((step.shell.as_str(), step.run.as_str()), ("bash", r#""$GITHUB_ACTION_PATH/setup""#));
    let script = read(".github/actions/setup-qus/setup");
    for (name, input) in &action.inputs {
        assert!(!input.description.is_empty(), "{name}");
        let variable = format!("QUS_{}", name.to_uppercase());
        assert_eq!(step.env[&variable], format!("${{{{ inputs.{name} }}}}"));
        assert!(script.contains(&format!("${variable}")), "{variable} is not used");
    }
    assert_eq!(action.inputs["platforms"].default, "all");
    for name in ["reset", "persist"] {
        assert_eq!(action.inputs[name].default, "false");
    }
    let output = &action.outputs["platforms"];
    assert!(!output.description.is_empty());
    assert_eq!(output.value, format!("${{{{ steps.{}.outputs.platforms }}}}", step.id));
}

#[test]
fn systemd_unit() {
    let text = read("dist/systemd/qus.service");
    let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let line: Vec<&str> = start.split(' ').collect();
    let (program, words) = line.split_first().unwrap();
    assert_eq!(*program, PROGRAM);
    let register = register(words.iter().copied());
    assert!(register.hold, "{register:?}");
    assert!(text.lines().any(|line| line == "Type=notify"), "with --hold, qus reports when it is ready");
}
