from jiqa.cli import main

main()
