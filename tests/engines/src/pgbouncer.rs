//! PgBouncer in transaction mode before the PostgreSQL server of the tests: what its clients take for one session is another one in each
//! transaction. Gone with the process, as [`crate::postgres`] is.

use std::process::{Child, Command};

use crate::postgres::start;

/// Few sessions for many clients, so that each gets others' all the time.
const START: &str = r#"
cat >"$dir/pgbouncer.ini" <<END
[databases]
* = host=$1 port=5432 user=postgres
[pgbouncer]
listen_addr =
unix_socket_dir = $dir
listen_port = 6432
auth_type = any
pool_mode = transaction
default_pool_size = 6
max_client_conn = 500
END
pgbouncer=$(PATH=$PATH:/usr/sbin command -v pgbouncer) || { echo "install Debian's package pgbouncer" >&2; exit 1; }
$as "$pgbouncer" -q "$dir/pgbouncer.ini" </dev/null >/dev/null 2>"$dir/log" &
pooler=$!
until [ -S "$dir/.s.PGSQL.6432" ]; do kill -0 $pooler || { cat "$dir/log" >&2; exit 1; }; sleep 0.05; done
echo "$dir"
cat
kill -INT $pooler
wait $pooler || true
rm -rf "$dir"
"#;

/// A running pooler.
#[derive(Debug)]
pub struct PgBouncer {
    folder: String,
    _shell: Child,
}

impl PgBouncer {
    /// Starts one before the server of a database's address.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn before(database_url: &str) -> Self {
        let (_, server) = database_url.split_once("?host=").expect("a socket");
        let (folder, shell, _) = start(Command::new("sh"), START, server);
        Self { folder, _shell: shell }
    }

    /// The address of the same database by way of the pooler.
    ///
    /// # Panics
    /// When the address is not one of [`crate::postgres::database`].
    #[must_use]
    pub fn lead_to(&self, database_url: &str) -> String {
        let (database, _) = database_url.split_once("?host=").expect("a socket");
        format!("{database}?host={}&port=6432", self.folder)
    }
}
