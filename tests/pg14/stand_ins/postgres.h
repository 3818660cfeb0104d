#error "This PostgreSQL 14 has no headers: tests/pg14/make.sh builds for it"
