//! A PostgreSQL server and its synchronous standby, of which the first can be killed and the second be promoted. Gone with the process, as
//! [`crate::postgres`] is.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command};

use crate::faults::Upstream;
use crate::postgres::start;

/// What nobody has written to both of them isn't committed.
const START: &str = r#"
ask() { $as "$bin/psql" -X -q -A -t -h "$dir" -p "$1" -U postgres -c "$2" postgres; }
{
  $as "$bin/initdb" -D "$dir/first" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync
  # Not as an option, which ALTER SYSTEM could not change.
  echo "synchronous_standby_names = '*'" >>"$dir/first/postgresql.conf"
  $as "$bin/postgres" -D "$dir/first" -k "$dir" -p 5432 -c listen_addresses= -c fsync=off </dev/null >/dev/null 2>&1 &
  first=$!
  until $as "$bin/pg_isready" -q -h "$dir" -p 5432; do kill -0 $first; sleep 0.05; done
  $as "$bin/pg_basebackup" -h "$dir" -p 5432 -U postgres -D "$dir/second" -R -X stream -c fast --no-sync
  $as "$bin/postgres" -D "$dir/second" -k "$dir" -p 5433 -c listen_addresses= -c fsync=off -c synchronous_standby_names= \
    </dev/null >/dev/null 2>&1 &
  second=$!
  until [ "$(ask 5432 'SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ($$sync$$, $$quorum$$)')" = 1 ]; do
    kill -0 $second
    sleep 0.05
  done
} >"$dir/log" 2>&1 || { cat "$dir/log" >&2; exit 1; }
echo "$dir"
while read -r word; do
  case $word in
    kill) kill -KILL $first; wait $first 2>/dev/null || true ;;
    promote) ask 5433 'SELECT pg_promote()' >/dev/null ;;
  esac
  echo done
done
kill -INT $first $second 2>/dev/null || true
wait
rm -rf "$dir"
"#;

/// The two of them.
#[derive(Debug)]
pub struct Pair {
    folder: String,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
    _shell: Child,
}

impl Pair {
    /// Starts them.
    ///
    /// # Panics
    /// When one can't be started.
    #[must_use]
    pub fn start() -> Self {
        let (folder, mut shell, answers) = start(Command::new("sh"), START, "");
        let words = shell.stdin.take().expect("pipe");
        Self { folder, words, answers, _shell: shell }
    }

    /// Where the first one listens, with its database `postgres`.
    #[must_use]
    pub fn first(&self) -> Upstream {
        Upstream::Unix(format!("{}/.s.PGSQL.5432", self.folder))
    }

    /// Where the standby listens.
    #[must_use]
    pub fn second(&self) -> Upstream {
        Upstream::Unix(format!("{}/.s.PGSQL.5433", self.folder))
    }

    /// The first one is gone, without a word to anybody.
    pub fn kill_first(&mut self) {
        self.say("kill");
    }

    /// From now on the standby takes writes.
    pub fn promote_second(&mut self) {
        self.say("promote");
    }

    fn say(&mut self, word: &str) {
        writeln!(self.words, "{word}").expect("asks");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("answers");
        assert_eq!(answer.trim(), "done", "{word}");
    }
}
