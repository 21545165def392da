from dlilib.cli import main

main()
