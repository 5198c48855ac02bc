"""Control of a running simulator: the operations, their execution, server and client."""
