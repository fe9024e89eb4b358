"""A schema, or a migration, written out for other tools: SQL scripts, Alembic revisions, CloudFormation templates.

Nothing here opens a database; the texts come from the functions the engines themselves apply.
"""
