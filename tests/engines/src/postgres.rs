//! A PostgreSQL server on a Unix socket in a temporary folder. It is started once a process, and a shell that waits for the end of its
//! input ends it and removes its folder, however the process ends.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// What a script begins with. Debian keeps the programs out of the path. A server doesn't run as root.
const PROLOGUE: &str = r#"
set -e
# What ends the tests must not keep it from tidying up.
trap '' HUP INT TERM
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
dir=$(mktemp -d /tmp/imagewell-postgres.XXXXXX)
as=
if [ "$(id -u)" = 0 ]; then
  chown postgres "$dir"
  as='setpriv --reuid=postgres --regid=postgres --clear-groups --'
fi
cd "$dir"
"#;

/// Nothing here has to survive a power cut. Given a size, there is a database `small` whose tables lie on a disk of that size; its log lies
/// elsewhere.
const START: &str = r#"
if [ -n "$1" ]; then
  mkdir "$dir/small"
  mount -t tmpfs -o "size=$1" none "$dir/small"
  if [ -n "$as" ]; then chown postgres "$dir/small"; fi
fi
$as "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >"$dir/log" 2>&1 || { cat "$dir/log" >&2; exit 1; }
$as "$bin/postgres" -D "$dir/data" -k "$dir" -c listen_addresses= -c fsync=off -c max_connections=400 </dev/null >/dev/null 2>&1 &
server=$!
until $as "$bin/pg_isready" -q -h "$dir"; do kill -0 $server; sleep 0.05; done
if [ -n "$1" ]; then
  $as "$bin/psql" -X -q -h "$dir" -U postgres -c "CREATE TABLESPACE small LOCATION '$dir/small'" -c 'CREATE DATABASE small TABLESPACE small' postgres
fi
echo "$dir"
cat
kill -INT $server
wait $server || true
if [ -n "$1" ]; then umount "$dir/small"; fi
rm -rf "$dir"
"#;

struct Server {
    folder: String,
    /// The end of its input is the server's, and it waits for this process.
    _shell: Child,
    psql: Mutex<Child>,
    answers: Mutex<BufReader<ChildStdout>>,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let (folder, shell, _) = start(Command::new("sh"), START, "");
        let mut psql = Command::new("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", &folder, "-U", "postgres", "postgres"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql starts");
        let answers = psql.stdout.take().expect("pipe");
        Server { folder, _shell: shell, psql: Mutex::new(psql), answers: Mutex::new(BufReader::new(answers)) }
    })
}

/// The folder that a script says when its servers run, the shell that ends them, and what it says further.
pub(crate) fn start(mut shell: Command, script: &str, size: &str) -> (String, Child, BufReader<ChildStdout>) {
    let script = format!("{PROLOGUE}{script}");
    let shell = shell.args(["-c", &script, "sh", size]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = shell.spawn().expect("a shell starts");
    let mut says = BufReader::new(shell.stdout.take().expect("pipe"));
    let mut folder = String::new();
    says.read_line(&mut folder).expect("reads");
    let folder = folder.trim().to_owned();
    assert!(!folder.is_empty(), "PostgreSQL doesn't start: is Debian's package postgresql installed?");
    (folder, shell, says)
}

/// A server of its own with one database on a disk that can be filled.
#[derive(Debug)]
pub struct SmallDisk {
    /// The address of that database, which is empty.
    pub database_url: String,
    _shell: Child,
}

impl SmallDisk {
    /// Starts it, in a mount namespace of its own.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn start(size: &str) -> Self {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--map-current-user", "--keep-caps"]);
        }
        command.args(["--mount", "sh"]);
        let (folder, shell, _) = start(command, START, size);
        Self { database_url: format!("postgres://postgres@localhost/small?host={folder}"), _shell: shell }
    }
}

/// The address of a new, empty database.
///
/// # Panics
/// When PostgreSQL can't be started.
#[must_use]
pub fn database() -> String {
    let server = server();
    let name = super::fresh("db").replace('-', "_");
    let mut psql = server.psql.lock().expect("psql");
    let psql = psql.stdin.as_mut().expect("pipe");
    writeln!(psql, "CREATE DATABASE {name};\n\\echo done").expect("asks");
    psql.flush().expect("asks");
    let mut answer = String::new();
    server.answers.lock().expect("psql").read_line(&mut answer).expect("answers");
    assert_eq!(answer.trim(), "done", "psql could not make a database");
    format!("postgres://postgres@localhost/{name}?host={}", server.folder)
}
