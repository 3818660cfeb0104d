/*
 * C functions that pgrx compiles from inline functions of the server's headers, for PostgreSQL 14 without headers. These
 * two are from pg_list.h, for pgrx's PgList. List and ListCell have this layout since PostgreSQL 13.
 */

typedef union
{
	void	   *ptr_value;
	int			int_value;
	unsigned int oid_value;
} ListCell;

typedef struct
{
	int			type;
	int			length;
	int			max_length;
	ListCell   *elements;
} List;

void *
list_nth__pgrx_cshim(const List *list, int n)
{
	return list->elements[n].ptr_value;
}

unsigned int
list_nth_oid__pgrx_cshim(const List *list, int n)
{
	return list->elements[n].oid_value;
}
